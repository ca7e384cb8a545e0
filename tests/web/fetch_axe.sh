#!/usr/bin/env bash
# Fetches axe-core, which finds what keeps people from using a page, as FOLDER/axe.min.js: of one
# version, whose digest is written here. Nothing is installed, and none of the package's scripts is run.
set -euo pipefail
folder=${1:?usage: fetch_axe.sh FOLDER}
version=4.14.1
digest=FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==

if ! command -v npm >/dev/null; then
    echo "axe-core $version comes with npm, which is missing here: apt-get install npm." >&2
    exit 1
fi
mkdir -p "$folder"
cd "$folder"
npm pack --silent --ignore-scripts "axe-core@$version" >/dev/null
found=$(openssl dgst -sha512 -binary "axe-core-$version.tgz" | openssl base64 -A)
if [ "$found" != "$digest" ]; then
    rm "axe-core-$version.tgz"
    echo "What npm gave for axe-core $version is not what was looked at: its SHA-512 is $found." >&2
    exit 1
fi
tar -xzf "axe-core-$version.tgz" --strip-components=1 package/axe.min.js
rm "axe-core-$version.tgz"
touch axe.min.js
