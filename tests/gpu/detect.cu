// A stand-in for a detector, which NumPy computes to the same bits: a face's score is the mean of
// its bytes, its patch map the red values of its top left corner, both over 255.
// One thread per face, in a block of its own: slow enough for a missing wait to show.
//
// detect.ptx is made from this file by NVRTC 12.2, with --gpu-architecture=compute_70; the unused
// constants that NVRTC adds are left out. The driver compiles it for the GPU at hand.
extern "C" __global__ void detect(const unsigned char* faces, float* score, float* patch_map,
                                  int count, int size, int cells) {
    int index = blockIdx.x;
    if (index >= count) return;
    int values = size * size * 3;
    const unsigned char* face = faces + (size_t)index * values;
    unsigned int sum = 0;
#pragma unroll 1
    for (int i = 0; i < values; ++i) sum += face[i];
    score[index] = (float)sum / (float)(255 * values);
#pragma unroll 1
    for (int row = 0; row < cells; ++row)
#pragma unroll 1
        for (int column = 0; column < cells; ++column)
            patch_map[(index * cells + row) * cells + column] =
                (float)face[(row * size + column) * 3] / 255.0f;
}
