# Sourced by demo.sh and demo-clean.sh: what the demonstration calls its things.
# shellcheck shell=bash disable=SC2034 # the scripts that source this use them

demo=${DROVER_DEMO:-/var/tmp/drover-demo}
driver=drover-demo

# own_folder ends the script when something lies there that the demonstration did not make: demo-clean
# removes all of it, and /var/tmp is everybody's.
own_folder() {
	if [ -L "$demo" ] || [ -e "$demo" ]; then
		if [ -L "$demo" ] || [ ! -d "$demo" ] || [ ! -O "$demo" ] ||
			{ [ ! -e "$demo/made-by-drover-demo" ] && [ -n "$(ls -A "$demo")" ]; }; then
			die "$demo was not made by the demonstration: remove it, or set DROVER_DEMO to a folder that is not there yet"
		fi
	fi
}
