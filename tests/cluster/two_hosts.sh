#!/usr/bin/env bash
# Slides over two hosts by torchrun, one of which is killed in the middle: as root, `bash two_hosts.sh`.
#
# The other finishes its share and ends with an error; the command, given again on both, does what is left.
# The hosts are network namespaces of this machine: each has its own loopback, and both see nothing but one cable. They
# share a folder. Files of the run are then compared, byte by byte, with those of one process.
# PYTHON is the interpreter of an environment with this package (default: .venv of the repository); SLIDES how many.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-$root/.venv/bin/python}
SLIDES=${SLIDES:-12}
work=$(mktemp -d)
export OMP_NUM_THREADS=1 PYTHONPATH=$root MONAI_EXT_DATA=
cleanup() {
    [ $? = 0 ] || tail -n 15 "$work"/*.log
    pkill -9 -f "$work" || true
    ip netns del mx_a 2> /dev/null || true
    ip netns del mx_b 2> /dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

for host in a b; do
    ip netns add mx_$host
    ip -n mx_$host link set lo up
done
ip link add mx_va netns mx_a type veth peer name mx_vb netns mx_b
ip -n mx_a addr add 10.77.0.1/24 dev mx_va
ip -n mx_b addr add 10.77.0.2/24 dev mx_vb
ip -n mx_a link set mx_va up
ip -n mx_b link set mx_vb up

for n in $(seq "$SLIDES"); do
    "$PYTHON" -m monai_ext phantom slide --dst "$work/slides/s$n.tif" --size 3000 --seed "$n" 2> /dev/null
done
cd "$root/bundles/pathology_metastasis_evidence_localization"
several=configs/overlays/multi_gpu/multi_gpu_slides.json

one() {
    "$PYTHON" -m monai.bundle run --config_file "['configs/inference.json','configs/slides.json']" \
        --dataset_dir "$work/slides" --output_dir "$work/one" > "$work/one.log" 2>&1
}

host() { # its name, cable and address; both have the machine's name, so who keeps the store and where they are is said
    ip netns exec "mx_$1" env GLOO_SOCKET_IFNAME="$2" "$PYTHON" -m torch.distributed.run --nnodes=2 --nproc_per_node=1 \
        --local_addr="$3" \
        --rdzv_backend=c10d --rdzv_endpoint=10.77.0.1:29500 --rdzv_id=slides \
        --rdzv_conf="is_host=$([ "$1" = a ] && echo 1 || echo 0)" -m monai.bundle run \
        --config_file "['configs/inference.json','configs/slides.json','$several']" \
        --dataset_dir "$work/slides" --output_dir "$work/two" >> "$work/$1.log" 2>&1
}

finished() { "$PYTHON" "$root/tests/cluster/finished.py" "$work/two"; }

one
echo "one process: $(ls "$work/one"/*.geojson | wc -l) slides"
host a mx_va 10.77.0.1 &
first=$!
host b mx_vb 10.77.0.2 &
until [ "$(finished)" -ge 2 ]; do sleep 1; done
kill -9 $(ip netns pids mx_b)
echo "host b killed when $(finished) of $SLIDES slides were done"
if wait $first; then echo "host a noticed nothing" && exit 1; fi
echo "host a has ended with an error, $(finished) of $SLIDES slides done"
host a mx_va 10.77.0.1 &
first=$!
host b mx_vb 10.77.0.2
wait $first
echo "both again: $(finished) of $SLIDES slides done"
"$PYTHON" "$root/tests/cluster/finished.py" "$work/two" "$work/one"
