#!/usr/bin/env bash
# Unpacks Ceph's monitor, OSD and S3 gateway into a folder: no root, and nothing is installed.
# About 70 MB are downloaded. Afterwards FOLDER/ready exists.
set -euo pipefail
prefix=${1:?usage: install_ceph.sh FOLDER}

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "No apt-get and dpkg-deb here, so Ceph's packages cannot be had: the tests in tests/s3 are skipped." >&2
    echo "Run them on Debian or Ubuntu, in a container for instance." >&2
    exit 0
fi
if [ ! -x /usr/bin/python3 ]; then
    echo "Ceph's command line needs /usr/bin/python3: apt-get install python3." >&2
    exit 1
fi

wanted="radosgw ceph-mon ceph-osd"
# What those three need and the machine does not have; -s only simulates.
if ! plan=$(apt-get install -s --no-install-recommends $wanted); then
    echo "apt knows no $wanted: run apt-get update, or look at the sources in /etc/apt." >&2
    exit 1
fi
rm -rf "$prefix"
mkdir -p "$prefix/debs"
(cd "$prefix/debs" && apt-get download $(awk '/^Inst/ {print $2}' <<<"$plan") $wanted >/dev/null)
for package in "$prefix"/debs/*.deb; do
    dpkg-deb -x "$package" "$prefix"
done
rm -r "$prefix/debs"
touch "$prefix/ready"
