#!/usr/bin/env bash
# A one-node Slurm on this machine, for tests: installed from Debian's or Ubuntu's packages where it is missing, and started.
# Needs root, and no systemd. Prints the path of its slurm.conf, which the commands need as SLURM_CONF; all else goes to
# standard error. Given again, it leaves a running one alone. With "stop" it stops it.
#     SLURM_CONF=$(tests/slurm_up.sh) sinfo
set -euo pipefail
folder=${LABCORE_SLURM:-/tmp/labcore-slurm}
export SLURM_CONF=$folder/slurm.conf
say() { echo "slurm_up: $*" >&2; }

up() { timeout 5 sinfo --noheader --format=%T 2>/dev/null | grep -qE '^(idle|mixed|allocated|completing)'; }

stop() {
    for name in slurmd slurmctld; do
        if [ -s "$folder/$name.pid" ] && [ "$(ps -o comm= -p "$(cat "$folder/$name.pid")")" = $name ]; then
            kill "$(cat "$folder/$name.pid")"
        fi
    done
}

if [ "${1:-}" = stop ]; then
    stop
    exit
fi
if up; then
    echo "$SLURM_CONF"
    exit
fi
[ "$(id -u)" = 0 ] || { say "needs root to install and start Slurm"; exit 1; }
if ! command -v slurmctld slurmd sbatch munged >/dev/null; then
    command -v apt-get >/dev/null || { say "install slurmctld, slurmd, slurm-client and munge; there is no apt-get here"; exit 1; }
    say "installing Slurm"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends slurmctld slurmd slurm-client munge; } \
        >"${TMPDIR:-/tmp}/slurm_up.apt.log" 2>&1 ||
        { tail -5 "${TMPDIR:-/tmp}/slurm_up.apt.log" >&2; say "apt-get could not install Slurm"; exit 1; }
fi

stop 2>/dev/null || true
mkdir -p "$folder"/{state,spool,log}
host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat >"$SLURM_CONF" <<CONF
ClusterName=labcore
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmctldParameters=preempt_send_user_signal
MinJobAge=300
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=lab Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
if ! timeout 5 munge -n >/dev/null 2>&1; then
    [ -s /etc/munge/munge.key ] || { say "munge has no key"; exit 1; }
    install -d -o munge -g munge -m 755 /run/munge
    runuser -u munge -- munged >&2
fi
slurmctld -i >&2
slurmd >&2
for _ in $(seq 60); do
    if up; then
        echo "$SLURM_CONF"
        exit
    fi
    sleep 0.5
done
say "the node did not come up; see $folder/log"
tail -5 "$folder"/log/*.log >&2
exit 1
