"""Where a run's work is done and its objects are: sections of the configuration, and addresses."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from rayinfluence.addresses import expanded, why_no_address, why_no_documents, why_no_model
from rayinfluence.text import holds_credentials

#: What is wrong with an address that has credentials in it.
SECRET = (
    "there is a password or a token in this address, and a configuration is copied into the run "
    "directory and its manifest. Take it out; credentials come from the environment "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role)."
)


#: What fsspec's file systems call it that they send no credentials.
_ANONYMOUS: dict[str, dict[str, Any]] = {
    "s3": {"anon": True},
    "gs": {"token": "anon"},
    "gcs": {"token": "anon"},
    "hf": {"token": False},
}


class Section(BaseModel):
    """A part of the configuration; keys it does not know are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be an address with a password in it
    )

    @field_validator("*", mode="before")
    @classmethod
    def _paths_are_text(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [str(entry) if isinstance(entry, PurePath) else entry for entry in value]
        return str(value) if isinstance(value, PurePath) else value

    @field_validator("*")
    @classmethod
    def _not_blank(cls, value: Any) -> Any:
        # No name, path or address is blank; an empty path would mean the working directory.
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{value!r} is blank; write a value, or leave the key out.")
        if isinstance(value, list):
            for entry in value:
                if isinstance(entry, str) and not entry.strip():
                    raise ValueError(f"an entry is blank ({entry!r}); take it out of the list.")
        return value


def _address(value: str) -> str:
    if why := why_no_address(value):
        raise ValueError(why)
    return expanded(value)


#: Where something is: a local path, or an address in object storage.
Address = Annotated[str, AfterValidator(_address)]


def _document_address(value: str) -> str:
    if why := why_no_documents(value):
        raise ValueError(why)
    return expanded(value)


#: Where documents are: an address, or ``hf://datasets/org/name`` on a hub.
DocumentAddress = Annotated[str, AfterValidator(_document_address)]


def _model_address(value: str) -> str:
    if why := why_no_model(value):
        raise ValueError(why)
    return expanded(value)


#: Where a model or a tokenizer is: a local path, or ``hf://org/name@revision`` on a hub.
ModelAddress = Annotated[str, AfterValidator(_model_address)]


class RunnerConfig(Section):
    """Where the work runs."""

    name: Literal["ray", "inline"] = "ray"
    """``ray``: actors on a Ray cluster; ``inline``: one process, without Ray, the same bytes."""
    actors: int = Field(default=1, ge=1)
    """Model replicas that the scan starts with."""
    max_actors: int | None = Field(default=None, ge=1)
    """Most replicas; the pool grows to this while there is work and room.

    None: as many as ``actors``.
    """
    gpus_per_actor: int | None = Field(default=None, ge=1)
    """GPUs of a replica, over which the model's blocks are dealt: for one that does not fit one.

    None: one on a cluster, and in this process (``inline``) as few as have twice the memory of the
    weights. More than one needs ``device: cuda``."""
    checkpoint_seconds: float = Field(default=60, ge=0)
    """Least time between two checkpoints of a lane of the fit, or of queries under a solver."""
    stall_seconds: float = Field(default=1800, gt=0)
    """A stage in which no worker reports anything for this long is ended with an error."""
    address: str | None = None
    """Address of a Ray cluster; inside a submitted job Ray finds its own.

    None starts a local one.
    """

    @property
    def most_actors(self) -> int:
        """The largest that the pool may become."""
        return max(self.actors, self.max_actors or 0)


class PlaceConfig(Section):
    """How one place of object storage is reached."""

    endpoint_url: str | None = None
    """Of an S3-compatible server; None is AWS."""
    region: str | None = None
    """Of the buckets; None is the environment's."""
    path_style: bool = False
    """Buckets in the path instead of in the host name."""
    checksums: Literal["when_supported", "when_required"] | None = None
    """When requests carry, and answers are checked against, the checksums of newer S3 clients.

    Servers that know none (Ceph before 18, some others) need ``when_required``. None is the
    environment's AWS_REQUEST_CHECKSUM_CALCULATION, and ``when_supported`` without it.
    """

    anonymous: bool = False
    """Whether requests carry no credentials, as for a public bucket or data set."""

    @field_validator("endpoint_url")
    @classmethod
    def _is_a_server(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if holds_credentials(value) or "@" in value.partition("://")[0]:
            raise ValueError(SECRET)
        if not re.fullmatch(r"https?://[^/?#\s\0]+/?[^?#\s\0]*", value, re.IGNORECASE):
            raise ValueError("must be the address of a server, such as http://minio:9000")
        return value

    def options_here(self, url: str) -> dict[str, Any]:
        """The fsspec options of an address that these settings are for."""
        scheme = url.partition("://")[0]
        if scheme != "s3":
            return dict(_ANONYMOUS.get(scheme, {})) if self.anonymous else {}
        client: dict[str, Any] = {"region_name": self.region} if self.region else {}
        settings: dict[str, Any] = {"s3": {"addressing_style": "path"}} if self.path_style else {}
        if self.checksums:
            settings["request_checksum_calculation"] = self.checksums
            settings["response_checksum_validation"] = self.checksums
        return {
            **(_ANONYMOUS["s3"] if self.anonymous else {}),
            **({"endpoint_url": self.endpoint_url} if self.endpoint_url else {}),
            **({"client_kwargs": client} if client else {}),
            **({"config_kwargs": settings} if settings else {}),
        }


class StorageConfig(PlaceConfig):
    """Object storage; credentials come from the environment, never from here."""

    places: dict[str, PlaceConfig] = Field(default_factory=dict)
    """Settings of addresses that begin so, such as ``s3://public-bucket: {anonymous: true}``.

    They stand in the place of all those above; of several the longest counts."""

    @field_validator("places")
    @classmethod
    def _are_addresses(cls, value: dict[str, PlaceConfig]) -> dict[str, PlaceConfig]:
        for prefix, place in value.items():
            if holds_credentials(prefix):
                raise ValueError(SECRET)
            scheme, colon, _ = prefix.partition("://")
            if not colon:
                raise ValueError(f"{prefix!r} is no address; write such as s3://bucket.")
            if scheme != "s3" and place != PlaceConfig(anonymous=place.anonymous):
                raise ValueError(f"{prefix!r}: only s3:// has other keys than anonymous.")
            if place.anonymous and scheme not in _ANONYMOUS:
                raise ValueError(
                    f"{prefix!r}: anonymous is for {', '.join(f'{one}://' for one in _ANONYMOUS)}."
                )
        return value

    def options(self, url: str) -> dict[str, Any]:
        """The fsspec options of an address: of the longest prefix that it has, or of all others."""
        found = [one for one in self.places if f"{url}/".startswith(f"{one.rstrip('/')}/")]
        place = self.places[max(found, key=len)] if found else self
        return place.options_here(url)
