#!/usr/bin/env bash
# An option None of `python -m monai.bundle run` is dropped without a word; null is taken for text.
#
# Seen with monai 1.6.1, fire 0.7.1 and torch 2.15.0: a configuration says "patience": 2, where null would mean "no
# limit". `--patience None` runs with 2, `--patience null` with the text 'null'; only `--patience '$None'` gives None.
# Why it surprises: None reaches MONAI as Python's None (fire parses it), JSON's null is how the same configuration
# file says it, and both exit with 0. The log lists neither. What was run is not what was asked for.
# Who meets it: whoever switches something off from the command line: a limit, initial weights, a mask, a sampler.
# Source: monai/bundle/scripts.py of monai 1.6.1 (run calls update_kwargs, whose ignore_none is True).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
    monai==1.6.1 fire==0.7.1 torch==2.15.0 numpy==2.2.6 pytorch-ignite==0.5.5
echo '{"patience": 2, "run": ["$print(\"patience is\", repr(@patience))"]}' > "$work/config.json"
"$work/env/bin/python" -c 'import fire, monai; print(f"monai {monai.__version__}, fire {fire.__version__}")' 2> /dev/null
for value in None null '$None'; do
    seen=$("$work/env/bin/python" -m monai.bundle run --config_file "$work/config.json" --patience "$value" 2> /dev/null |
        grep "^patience is")
    echo "--patience $value: $seen"
    case "$value: $seen" in
        "None: patience is 2" | "null: patience is 'null'" | "\$None: patience is None") ;;
        *) exit 1 ;;
    esac
done
