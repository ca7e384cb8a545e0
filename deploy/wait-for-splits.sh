#!/usr/bin/env bash
# Holds a worker that is about to be stopped while it works: a split that ends in time is committed,
# the others are scored again elsewhere. The one argument is how many seconds to wait at most.
# An actor's process is called ray::Name, an idle one ray::IDLE; Ray's own begin otherwise.
set -u
deadline=$((SECONDS + ${1:?seconds}))
while ((SECONDS < deadline)) && grep -qsE '^ray::[^I]' /proc/[0-9]*/cmdline; do
  sleep 1
done
