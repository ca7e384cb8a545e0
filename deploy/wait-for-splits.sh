#!/usr/bin/env bash
# Holds a worker that is about to be stopped while it works: a split that ends in time is committed,
# the others are scored again elsewhere. The first argument is how many seconds to wait at most, the
# second, for tests, where processes are listed.
# An actor that is at work is called ray::Name.method; one that has nothing to do, and Ray's own
# processes, have no method. Between two splits an actor may have none for a moment, so it takes
# three seconds without work to let the worker go.
set -u
deadline=$((SECONDS + ${1:?seconds}))
idle=0
while ((SECONDS < deadline && idle < 3)); do
  if grep -qsaE '^ray::.*\.[a-z_]+' "${2:-/proc}"/[0-9]*/cmdline; then idle=0; else idle=$((idle + 1)); fi
  sleep 1
done
