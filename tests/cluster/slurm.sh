#!/usr/bin/env bash
# Slides as a Slurm job over two nodes that is put back into the queue in the middle: as root, `bash slurm.sh`.
#
# Debian's slurm-wlm and munge; both nodes are daemons of this machine. The job is that of docs/how_to/
# resume_and_multi_gpu.md, without GPUs. Its files are then compared, byte by byte, with those of one process.
# PYTHON is the interpreter of an environment with this package (default: .venv of the repository); SLIDES how many.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-$root/.venv/bin/python}
SLIDES=${SLIDES:-6}
work=$(mktemp -d)
chmod 755 "$work"
export OMP_NUM_THREADS=1 PYTHONPATH=$root SLURM_CONF=$work/slurm.conf
cleanup() {
    [ $? = 0 ] || tail -n 15 "$work"/*.log "$work"/*.out || true
    pkill -9 -f "$work" || true
    pkill -x munged || true
    rm -rf "$work"
}
trap cleanup EXIT

[ -f /etc/munge/munge.key ] || mungekey --create --keyfile /etc/munge/munge.key
mkdir -p /run/munge "$work/state" "$work/n1" "$work/n2"
chown munge: /run/munge
pgrep -x munged > /dev/null || runuser -u munge -- munged
cat > "$SLURM_CONF" << CONF
ClusterName=here
SlurmctldHost=$(hostname)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd_%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd_%n.log
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17001 CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17002 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N n1
slurmd -f "$SLURM_CONF" -N n2
sleep 3
sinfo -N

for n in $(seq "$SLIDES"); do
    "$PYTHON" -m monai_ext phantom slide --dst "$work/slides/s$n.tif" --size 1500 --seed "$n" 2> /dev/null
done
cd "$root/bundles/pathology_metastasis_evidence_localization"
"$PYTHON" -m monai.bundle run --config_file "['configs/inference.json','configs/slides.json']" \
    --dataset_dir "$work/slides" --output_dir "$work/one" > "$work/one.log" 2>&1
echo "one process: $(ls "$work/one"/*.geojson | wc -l) slides"

cat > "$work/slides.sh" << JOB
#!/bin/bash
#SBATCH --job-name=slides
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$work/job.out
# both nodes have this machine's name, so who keeps the store is said; elsewhere torchrun tells by the endpoint
srun bash -c '"$PYTHON" -m torch.distributed.run --nnodes="\$SLURM_NNODES" --nproc_per_node=1 --rdzv_backend=c10d \
    --rdzv_endpoint="127.0.0.1:29500" --rdzv_id="\$SLURM_JOB_ID" --rdzv_conf="is_host=\$((SLURM_NODEID == 0))" \
    -m monai.bundle run --config_file "['"'configs/inference.json','configs/slides.json','configs/overlays/multi_gpu/multi_gpu_slides.json'"']" \
    --dataset_dir "$work/slides" --output_dir "$work/two"'
JOB
job=$(sbatch --parsable "$work/slides.sh")
finished() { "$PYTHON" "$root/tests/cluster/finished.py" "$work/two"; }
until [ "$(finished)" -ge 2 ]; do sleep 1; done
scontrol requeue "$job"
echo "put back into the queue when $(finished) of $SLIDES slides were done"
until scontrol show job "$job" | grep -q "JobState=COMPLETED\|JobState=FAILED"; do sleep 2; done
scontrol show job "$job" | grep -o "JobState=[A-Z]*\|Restarts=[0-9]*\|ExitCode=[0-9:]*\|NodeList=n[^ ]*"
"$PYTHON" "$root/tests/cluster/finished.py" "$work/two" "$work/one"
