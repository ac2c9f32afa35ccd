# shellcheck shell=bash
# Sourced by the scripts beside it.

# The comment at the head of a script is its usage: prints it, and ends the script, if the first
# argument asks for help. Before anything is installed or started.
#
#   usage_if_asked SCRIPT [ARGUMENT]...
usage_if_asked() {
  case "${2:-}" in
    -h | --help)
      sed -n '2,/^$/{/^#SBATCH/d;s/^# \{0,1\}//p}' "$1"
      exit 0
      ;;
  esac
}
