/* The exact inverse of one block, token by token, in one call: x_i = z_i exp(log_scale_i(x_<i)) + shift_i(x_<i).

   The same function as labcore.inverse.decode.BlockDecoder in a loop, for float32 on a CPU. Rows are images, or images twice
   where they are guided (first with their class, then without). Each thread takes some of the images and needs nothing from
   the others. A row's numbers do not depend on the rows beside it: every sum runs in the same order.

   Vectors of 16 floats are the compiler's own extension (GCC, Clang): one register with AVX-512, two with AVX2, four with NEON.
   Weights, and the cached keys, are packed in panels: 16 outputs (keys) of the first input, 16 of the second, and so on. */

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PANEL 16
typedef float vec __attribute__((vector_size(4 * PANEL), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * PANEL), aligned(4)));

#ifdef __AVX512F__
#define WIDE 8     /* panels at a time for one row: as many sums as registers and latency allow */
#define TOGETHER 4 /* and for ROWS rows */
#else
#define WIDE 4
#define TOGETHER 1
#endif
#define ROWS 4
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    const float *weight; /* panels (ceil(out / 16), in, 16) */
    const float *bias;   /* ceil(out / 16) * 16 */
    int32_t in, out;
} Linear;

typedef struct {
    Linear qkv, out, up, down;
    float eps;
    int32_t centred; /* LayerNorm, not RMSNorm */
    int32_t gelu;    /* not SwiGLU */
} Layer;

typedef struct {
    Linear token_in, params_out;
    const float *token_bias; /* (tokens, width) or (1, width) */
    const float *rope;       /* (tokens, head_dim / 2, 2): cosine and sine, or NULL */
    const Layer *layers;
    int32_t num_layers, token_dim, width, heads, head_dim;
    int32_t biases; /* rows of token_bias */
    int32_t scales; /* params_out gives log_scale and shift, not shift alone */
    float clamp;    /* bound of log_scale and shift; 0: none */
} Block;

typedef struct {
    const float *z;           /* (images, tokens, token_dim), in the block's own order */
    float *x;                 /* the same shape */
    const float *condition;   /* (conditions, width) or NULL */
    const float *temperature; /* (images * branches) or NULL */
    const float *guidance;    /* (images) or NULL: one branch */
    const float *weights;     /* (tokens): weight of the guidance by position */
    int32_t images, tokens, conditions;
} Batch;

/* ---- elementary functions: e^x by its Taylor polynomial, erf by Abramowitz and Stegun 7.1.26 (error at most 1.5e-7) ---- */

INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec choose(ivec which, vec yes, vec no) { return (vec)((which & (ivec)yes) | (~which & (ivec)no)); }

INLINE vec exponential(vec x) {
    x = choose(x < -87.0f, all(-87.0f), x); /* NaN stays NaN */
    x = choose(x > 88.0f, all(88.0f), x);
    vec rounder = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vec n = (x * 1.44269504f + rounder) - rounder;
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts */
    vec p = all(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
    return p * (vec)power;
}

INLINE vec gelu(vec x) {
    vec s = x * 0.70710678f, size = choose(s < 0, -s, s), t = 1.0f / (1.0f + 0.3275911f * size);
    vec p = all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec tail = p * t * exponential(-s * s); /* 1 - erf(|s|) */
    return 0.5f * x * choose(s < 0, tail, 2.0f - tail);
}

INLINE vec silu(vec x) { return x / (1.0f + exponential(-x)); }

INLINE float sum_of(vec x) {
    float total = 0;
    for (int i = 0; i < PANEL; i++) total += x[i];
    return total;
}

INLINE float largest_of(vec x) {
    float most = x[0];
    for (int i = 1; i < PANEL; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* ---- y = x W^T + b, or y += ... ---- */

INLINE void tile(const float *x, long by_x, const float *w, const float *bias, float *y, long by_y, int in, int add, int rows,
                 int panels) {
    vec sum[ROWS][WIDE];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < panels; g++) sum[r][g] = *(const vec *)(bias + g * PANEL);
    for (int k = 0; k < in; k++)
        for (int g = 0; g < panels; g++) {
            vec weight = *(const vec *)(w + ((long)g * in + k) * PANEL);
            for (int r = 0; r < rows; r++) sum[r][g] += x[r * by_x + k] * weight;
        }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < panels; g++) {
            vec *to = (vec *)(y + r * by_y + g * PANEL);
            *to = add ? *to + sum[r][g] : sum[r][g];
        }
}

/* The rows from *r on, so many at a time, for `panels` panels of y, `together` of them at a time */
INLINE void tiles(const Linear *l, const float *x, long by_x, float *y, long by_y, int *r, int rows, int add, int first,
                  int panels, int height, int together) {
    for (; *r + height <= rows; *r += height)
        for (int g = first; g < first + panels; g += together)
            tile(x + *r * by_x, by_x, l->weight + (long)g * l->in * PANEL, l->bias + g * PANEL, y + *r * by_y + g * PANEL, by_y,
                 l->in, add, height, together);
}

/* x (rows, in) and y (rows, out to the next multiple of 16), with their strides */
static void linear(const Linear *l, const float *x, long by_x, float *y, long by_y, int rows, int add) {
    int panels = (l->out + PANEL - 1) / PANEL, first = 0, r;
    for (; first + WIDE <= panels; first += WIDE) { /* these weights stay near for all rows */
        r = 0;
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, WIDE, ROWS, TOGETHER);
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, WIDE, 2, WIDE / 2);
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, WIDE, 1, WIDE);
    }
    for (; first < panels; first++) {
        r = 0;
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, 1, ROWS, 1);
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, 1, 1, 1);
    }
}

/* ---- one thread's images ---- */

typedef struct {
    const Block *block;
    const Batch *batch;
    int first, count;       /* images */
    int rows, branches;     /* rows = count * branches */
    long wide, widest;      /* width and the largest layer's, to the next multiple of 16 */
    long tokens, head;      /* tokens and head_dim, likewise */
    float *keys, *values;   /* (layers, rows, heads) x panels (tokens / 16, head_dim, 16), and x (tokens, head) */
    float *h, *normed, *inner, *scores;
    int failed;
} Work;

static long up(long n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* to = (h - mean) / sqrt(variance + eps), or h / sqrt(mean square + eps); rows are filled up with zeros */
static void normalise(const Layer *layer, const float *h, float *to, int width) {
    vec sums = {0}, squares = {0};
    float mean = 0, square = 0;
    int i = 0, whole = width / PANEL * PANEL;
    if (layer->centred) {
        for (i = 0; i < whole; i += PANEL) sums += *(const vec *)(h + i);
        for (mean = sum_of(sums); i < width; i++) mean += h[i];
        mean /= width;
    }
    for (i = 0; i < whole; i += PANEL) {
        vec off = *(const vec *)(h + i) - mean;
        squares += off * off;
    }
    for (square = sum_of(squares); i < width; i++) square += (h[i] - mean) * (h[i] - mean);
    float scale = 1.0f / sqrtf(square / width + layer->eps);
    for (i = 0; i < width; i++) to[i] = (h[i] - mean) * scale;
}

static void rotate(float *x, const float *turn, int pairs) {
    for (int i = 0; i < pairs; i++) {
        float even = x[2 * i], odd = x[2 * i + 1], cosine = turn[2 * i], sine = turn[2 * i + 1];
        x[2 * i] = even * cosine - odd * sine;
        x[2 * i + 1] = even * sine + odd * cosine;
    }
}

/* One head of one row: its key and value go into the cache at `position`, and `mixed` (head_dim) is what it reads there. */
static void attend(const Work *w, float *q, const float *k, const float *v, float *keys, float *values, float scale, int position,
                   float *mixed) {
    int e = w->block->head_dim, seen = position + 1;
    float *key = keys + (position / PANEL) * (long)e * PANEL + position % PANEL;
    for (int i = 0; i < e; i++) key[i * PANEL] = k[i];
    memcpy(values + position * w->head, v, e * sizeof(float));
    for (int j = 0; j < seen; j += PANEL) {
        const float *panel = keys + (long)j * e;
        vec logits = {0};
        for (int i = 0; i < e; i++) logits += q[i] * *(const vec *)(panel + i * PANEL);
        *(vec *)(w->scores + j) = logits * scale;
    }
    for (int j = seen; j % PANEL; j++) w->scores[j] = -INFINITY; /* becomes e^-87 below, which no sum notices */
    vec most = all(-INFINITY), totals = {0};
    for (int j = 0; j < seen; j += PANEL) {
        vec logits = *(vec *)(w->scores + j);
        most = choose(logits > most, logits, most);
    }
    float largest = largest_of(most);
    for (int j = 0; j < seen; j += PANEL) totals += *(vec *)(w->scores + j) = exponential(*(vec *)(w->scores + j) - largest);
    float share = 1.0f / sum_of(totals);
    for (int i = 0; i < w->head; i += PANEL) {
        vec a = {0}, b = {0}, c = {0}, d = {0};
        const float *value = values + i;
        int j = 0;
        for (; j + 4 <= seen; j += 4, value += 4 * w->head) {
            a += w->scores[j] * *(const vec *)value;
            b += w->scores[j + 1] * *(const vec *)(value + w->head);
            c += w->scores[j + 2] * *(const vec *)(value + 2 * w->head);
            d += w->scores[j + 3] * *(const vec *)(value + 3 * w->head);
        }
        for (; j < seen; j++, value += w->head) a += w->scores[j] * *(const vec *)value;
        vec out = ((a + b) + (c + d)) * share;
        memcpy(mixed + i, &out, (i + PANEL <= e ? PANEL : e - i) * sizeof(float));
    }
}

static void attention(const Work *w, int number, int position) {
    const Block *b = w->block;
    int e = b->head_dim;
    for (int r = 0; r < w->rows; r++) {
        float *qkv = w->inner + r * w->widest, *mixed = w->normed + r * w->wide;
        int image = w->first + r % w->count, row = (r / w->count) * w->batch->images + image;
        float scale = 1.0f / sqrtf((float)e);
        if (w->batch->temperature) scale /= w->batch->temperature[row];
        for (int head = 0; head < b->heads; head++) {
            long cached = ((long)number * w->rows + r) * b->heads + head;
            float *q = qkv + head * e, *k = q + b->width, *v = k + b->width;
            if (b->rope) {
                const float *turn = b->rope + (long)position * e;
                rotate(q, turn, e / 2);
                rotate(k, turn, e / 2);
            }
            attend(w, q, k, v, w->keys + cached * w->tokens * e, w->values + cached * w->batch->tokens * w->head, scale, position,
                   mixed + head * e);
        }
    }
}

static void activate(const Work *w, const Layer *layer) {
    int hidden = layer->down.in;
    for (int r = 0; r < w->rows; r++) {
        float *x = w->inner + r * w->widest;
        for (int i = 0; i < hidden; i += PANEL) { /* the last panel may run into what nothing reads any more */
            vec gate = *(vec *)(x + i);
            if (layer->gelu) {
                *(vec *)(x + i) = gelu(gate);
            } else {
                vec product = silu(gate) * *(vec *)(x + hidden + i);
                memcpy(x + i, &product, (i + PANEL <= hidden ? PANEL : hidden - i) * sizeof(float));
            }
        }
    }
}

/* What params_out says after the tokens at `position`, whose values stand in x, into w->inner. */
static void step(const Work *w, int position) {
    const Block *b = w->block;
    const Batch *batch = w->batch;
    const float *u = batch->x + ((long)w->first * batch->tokens + position) * b->token_dim;
    linear(&b->token_in, u, (long)batch->tokens * b->token_dim, w->h, w->wide, w->count, 0);
    if (w->rows > w->count) memcpy(w->h + w->count * w->wide, w->h, w->count * w->wide * sizeof(float));
    const float *bias = b->token_bias + (b->biases > 1 ? (long)position * b->width : 0);
    for (int r = 0; r < w->rows; r++) {
        float *h = w->h + r * w->wide;
        for (int i = 0; i < b->width; i++) h[i] += bias[i];
        if (batch->condition) {
            long row = (long)(r / w->count) * batch->images + w->first + r % w->count;
            const float *condition = batch->condition + (batch->conditions > 1 ? row * b->width : 0);
            for (int i = 0; i < b->width; i++) h[i] += condition[i];
        }
    }
    for (int n = 0; n < b->num_layers; n++) {
        const Layer *layer = b->layers + n;
        for (int r = 0; r < w->rows; r++) normalise(layer, w->h + r * w->wide, w->normed + r * w->wide, b->width);
        linear(&layer->qkv, w->normed, w->wide, w->inner, w->widest, w->rows, 0);
        attention(w, n, position);
        linear(&layer->out, w->normed, w->wide, w->h, w->wide, w->rows, 1);
        for (int r = 0; r < w->rows; r++) normalise(layer, w->h + r * w->wide, w->normed + r * w->wide, b->width);
        linear(&layer->up, w->normed, w->wide, w->inner, w->widest, w->rows, 0);
        activate(w, layer);
        linear(&layer->down, w->inner, w->widest, w->h, w->wide, w->rows, 1);
    }
    linear(&b->params_out, w->h, w->wide, w->inner, w->widest, w->rows, 0);
}

static float held(float x, float bound) { return bound == 0 ? x : x > bound ? bound : x < -bound ? -bound : x; }

/* The tokens at `position` from the parameters in w->inner: both branches clamped, then c + g (c - u). */
static void affine(const Work *w, int position) {
    const Block *b = w->block;
    const Batch *batch = w->batch;
    int d = b->token_dim;
    for (int r = 0; r < w->count; r++) {
        long at = ((long)(w->first + r) * batch->tokens + position) * d;
        float g = batch->guidance ? batch->guidance[w->first + r] * batch->weights[position] : 0;
        const float *c = w->inner + r * w->widest, *u = w->inner + (long)(r + w->count) * w->widest;
        for (int i = 0; i < d; i++) {
            float scale = b->scales ? held(c[i], b->clamp) : 0, shift = held(c[b->scales ? d + i : i], b->clamp);
            if (batch->guidance) {
                if (b->scales) scale += g * (scale - held(u[i], b->clamp));
                shift += g * (shift - held(u[b->scales ? d + i : i], b->clamp));
            }
            batch->x[at + i] = batch->z[at + i] * expf(scale) + shift;
        }
    }
}

static void *solve_images(void *given) {
    Work *w = given;
    const Block *b = w->block;
    long most = up(b->params_out.out);
    for (int n = 0; n < b->num_layers; n++) {
        long qkv = up(b->layers[n].qkv.out), inner = up(b->layers[n].up.out);
        most = qkv > most ? qkv : most;
        most = inner > most ? inner : most;
    }
    w->wide = up(b->width), w->widest = most + PANEL, w->tokens = up(w->batch->tokens), w->head = up(b->head_dim);
    long cached = (long)b->num_layers * w->rows * b->heads;
    long keys = cached * w->tokens * b->head_dim, values = cached * w->batch->tokens * w->head;
    float *all = calloc(keys + values + w->rows * (2 * w->wide + w->widest) + w->tokens, sizeof(float));
    if (!all) {
        w->failed = 1;
        return NULL;
    }
    w->keys = all, w->values = w->keys + keys, w->h = w->values + values, w->normed = w->h + w->rows * w->wide;
    w->inner = w->normed + w->rows * w->wide, w->scores = w->inner + w->rows * w->widest;
    for (int r = 0; r < w->count; r++) { /* the first token is z's */
        long at = (long)(w->first + r) * w->batch->tokens * b->token_dim;
        memcpy(w->batch->x + at, w->batch->z + at, b->token_dim * sizeof(float));
    }
    for (int position = 1; position < w->batch->tokens; position++) {
        step(w, position - 1);
        affine(w, position);
    }
    free(all);
    return NULL;
}

/* x of the whole batch, by so many threads; 0, or 1 where there was not enough memory. */
int32_t solve_block(const Block *block, const Batch *batch, int32_t threads) {
    int branches = batch->guidance ? 2 : 1, failed = 0, started = 0, given = 0;
    if (threads > batch->images) threads = batch->images;
    if (threads < 1) threads = 1;
    Work *work = calloc(threads, sizeof(Work));
    pthread_t *ids = calloc(threads, sizeof(pthread_t));
    if (!work || !ids) {
        free(work);
        free(ids);
        return 1;
    }
    for (int t = 0; t < threads; t++) {
        int count = (batch->images - given) / (threads - t);
        work[t] = (Work){.block = block, .batch = batch, .first = given, .count = count, .rows = count * branches, .branches = branches};
        given += count;
    }
    while (started < threads - 1 && !pthread_create(&ids[started], NULL, solve_images, &work[started])) started++;
    for (int t = started; t < threads; t++) solve_images(&work[t]); /* the last share, and what no thread could be had for */
    for (int t = 0; t < started; t++) pthread_join(ids[t], NULL);
    for (int t = 0; t < threads; t++) failed |= work[t].failed;
    free(work);
    free(ids);
    return failed;
}

/* A digest of so many arrays of 32-bit words: whether weights have changed since they were packed. */
uint64_t digest(const uint32_t *const *arrays, const int64_t *sizes, int32_t count) {
    uint64_t total = 0;
    for (int n = 0; n < count; n++) {
        uint32_t mixed[PANEL] = {0};
        const uint32_t *x = arrays[n];
        int64_t i = 0;
        for (; i + PANEL <= sizes[n]; i += PANEL)
            for (int j = 0; j < PANEL; j++) mixed[j] = mixed[j] * 2654435761u + x[i + j];
        for (; i < sizes[n]; i++) mixed[i % PANEL] = mixed[i % PANEL] * 2654435761u + x[i];
        for (int j = 0; j < PANEL; j++) total = (total ^ mixed[j]) * 1099511628211ull;
    }
    return total;
}
