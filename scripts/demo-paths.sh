# Sourced by demo.sh and demo-clean.sh: what the demonstration calls its things.
# shellcheck shell=bash disable=SC2034 # the scripts that source this use them

demo=${DROVER_DEMO:-/var/tmp/drover-demo}
driver=drover-demo
