# The steps of a board, for the scripts that try them: steps BUNDLE FOLDER LPX...
#
# All of them have to work without PyTorch. LPX is the command that runs lpx there. A packed face set
# has one split, to bench on: calibration takes the demo faces.
steps() {
    bundle=$1 folder=$2
    shift 2
    # `set -e` does not count where a caller tests the result: hence the returns.
    "$@" unpack "$bundle" -w "$folder" || return
    "$@" doctor || return
    "$@" calibrate --faces demo --limit 64 -w "$folder" || return
    "$@" build --fp32 --int8 --target onnxruntime -w "$folder" || return
    # 1 is a verdict, not an error.
    "$@" bench --dataset "$folder/faces" --allow-overlap --reference recorded --no-stages \
        --latency-seconds 0 -w "$folder" || [ $? -eq 1 ] || return
    for engine in fp32 int8; do
        "$@" predict --crops "$folder/faces" --engine "onnxruntime-$engine" --no-overlay \
            -w "$folder" --out "$folder/$engine" || return
    done
}
