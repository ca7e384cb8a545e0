#!/usr/bin/env bash
# Holds a worker that is about to be stopped while it works: a split that ends in time is committed,
# the others are scored again elsewhere. The first argument is how many seconds to wait at most, the
# second, for tests, where processes are listed.
# An actor that is at work is called ray::Name.method; one that has nothing to do, and Ray's own
# processes, have no method.
set -u
deadline=$((SECONDS + ${1:?seconds}))
while ((SECONDS < deadline)) && grep -qsaE '^ray::.*\.[a-z_]+' "${2:-/proc}"/[0-9]*/cmdline; do
  sleep 1
done
