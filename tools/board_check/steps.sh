# The steps of a board, for the scripts that try them: steps BUNDLE FOLDER LPX...
#
# All of them have to work without PyTorch. LPX is the command that runs lpx there. A packed face set
# has one split, to bench on: calibration takes the demo faces. The method that it ranks first may
# differ, as engines of other machines round otherwise: it is named, so that scores can be compared.
steps() {
    packed=$1 board=$2
    shift 2
    # `set -e` does not count where a caller tests the result: hence the returns.
    "$@" unpack "$packed" -w "$board" || return
    "$@" doctor || return
    "$@" calibrate --faces demo --limit 64 -w "$board" || return
    "$@" build --fp32 --int8 --target onnxruntime --method percentile-99.99 -w "$board" || return
    # 1 is a verdict, not an error.
    "$@" bench --dataset "$board/faces" --allow-overlap --reference recorded --no-stages \
        --latency-seconds 0 -w "$board" || [ $? -eq 1 ] || return
    for engine in fp32 int8; do
        "$@" predict --crops "$board/faces" --engine "onnxruntime-$engine" --no-overlay \
            -w "$board" --out "$board/$engine" || return
    done
}
