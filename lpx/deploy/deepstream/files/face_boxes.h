/* The box of face_boxes.py for programs in C and C++, such as a pad probe of your own: crop recipe
 * "square-1.3", at even numbers and inside the frame.
 *
 *     NvOSD_RectParams *rect = &object->rect_params;
 *     LpxBox box = {rect->left, rect->top, rect->width, rect->height};
 *     if (!lpx_crop_box(&box, frame_width, frame_height))
 *         box.width = box.height = 0;
 *
 * The frame is that of nvstreammux. A face that cannot be cut out gets an empty box, which nvinfer
 * passes over. Put the boxes back after nvinfer.
 */
#ifndef LPX_FACE_BOXES_H
#define LPX_FACE_BOXES_H

#include <math.h>

typedef struct {
    double left, top, width, height;
} LpxBox;

/* Left or top, rounded up to an even number, or down where that leaves the frame. */
static inline double lpx_even(double start, double side, double end) {
    double even = start + fmod(start, 2);
    return even + side > end ? even - 2 : even;
}

/* Replace the box of a face by the one to cut out; 0 if the face cannot be cut out. */
static inline int lpx_crop_box(LpxBox *box, int frame_width, int frame_height) {
    double right = box->left + box->width, bottom = box->top + box->height;
    double across = fmin(right, frame_width) - fmax(box->left, 0);
    double down = fmin(bottom, frame_height) - fmax(box->top, 0);
    /* fmin and fmax pass over a NaN. */
    if (!(isfinite(box->left) && isfinite(box->top) && isfinite(right) && isfinite(bottom)))
        return 0;
    /* Less than two pixels show no face. */
    if (fmin(across, down) < 2)
        return 0;
    /* rint rounds halves to even numbers, as long as nobody has called fesetround. */
    double x0 = rint(box->left), x1 = rint(right), y0 = rint(box->top), y1 = rint(bottom);
    double side = floor(fmax(x1 - x0, y1 - y0) * 1.3);
    double left = fmax(floor((x0 + x1) / 2) - floor(side / 2), 0);
    double top = fmax(floor((y0 + y1) / 2) - floor(side / 2), 0);
    side = fmin(side, fmin(frame_width - left, frame_height - top));
    side -= fmod(side, 2);
    if (side < 2)
        return 0;
    box->left = lpx_even(left, side, frame_width);
    box->top = lpx_even(top, side, frame_height);
    box->width = box->height = side;
    return 1;
}

#endif
