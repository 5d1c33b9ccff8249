# shellcheck shell=bash
# Sourced by the other scripts.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PG_CONFIG=${PG_CONFIG:-pg_config}

# Options of an outer make (-n, STOP_POINTS=1) are not for the makes in here.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

die() { echo "${0##*/}: $*" >&2; exit 1; }

as_root()
{
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# The server refuses to run as root. From /, since that user may not be able
# to enter the current directory.
as_server()
{
	if [ "$(id -u)" = 0 ]; then
		(cd / && runuser -u postgres -- "$@")
	else
		"$@"
	fi
}

# One run at a time on a machine: a second one would replace the installed
# library under the first. The lock goes with the process (descriptor 9); the
# scripts that it calls know that they have it.
lock_installation()
{
	[ -z "${TENANTMIG_LOCKED:-}" ] || return 0
	export TENANTMIG_LOCKED=1
	exec 9< "$("$PG_CONFIG" --pkglibdir)"
	flock -n 9 && return
	echo "waiting for another run that uses this installation" >&2
	flock -w 3600 9 || die "another run has held the installation for an hour"
}
