#!/usr/bin/env bash
# A program that makes forward calls alone has no backward kernel.
# usage: forward_alone.sh NM PROGRAM
set -euo pipefail
symbols=$("$1" -C "$2")
if ! grep -q '::Forward<float>::attend' <<<"$symbols"; then
  echo "$2 shows no forward kernel, so that what is missing tells nothing" >&2
  exit 1
fi
if grep '::Backward<' <<<"$symbols" >&2; then
  echo "these are of no use to forward calls" >&2
  exit 1
fi
