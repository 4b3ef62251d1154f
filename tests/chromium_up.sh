#!/usr/bin/env bash
# Chromium for tests/test_browser.py: prints its path; from Debian's or Ubuntu's packages where it is missing. Needs root then.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
    if command -v "$name"; then exit; fi
done
say() { echo "chromium_up: $*" >&2; }
[ "$(id -u)" = 0 ] || { say "needs root to install Chromium"; exit 1; }
command -v apt-get >/dev/null || { say "install Chromium; there is no apt-get here"; exit 1; }
say "installing Chromium"
export DEBIAN_FRONTEND=noninteractive
log=${TMPDIR:-/tmp}/chromium_up.apt.log
{ apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium; } >"$log" 2>&1 ||
    { tail -5 "$log" >&2; say "apt-get could not install Chromium"; exit 1; }
command -v chromium
