/* The exact inverse of one block, token by token, in one call: x_i = z_i exp(log_scale_i(x_<i)) + shift_i(x_<i).

   The same function as labcore.inverse.decode.BlockDecoder in a loop, for float32 on a CPU. Rows are images, or images twice
   where they are guided (first with their class, then without). A team of threads takes some of the images and needs nothing
   from other teams; its members share each layer's outputs and heads, so that each reads its own part of the weights, which then
   stays in its core's cache. Numbers depend on neither rows nor threads: every sum is one member's and runs in the same order.

   Vectors of 16 floats are the compiler's own extension (GCC, Clang): one register with AVX-512, two with AVX2, four with NEON.
   Weights, and the cached keys, are packed in panels: 16 outputs (keys) of the first input, 16 of the second, and so on. */

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
#define PATIENCE 5000      /* looks at a meeting before the clock is asked */
#define LATE 3e-4          /* seconds of a long wait: the cores have other work */
#define MOST_LATE 2        /* tokens with long waits before the others leave */
#define CACHE (2L << 20)   /* bytes of weights that a core has near */
#define FEW_ROWS 4
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

/* Panels `first` to `end` of y (rows, out to the next multiple of 16) from x (rows, in), with their strides */
static void linear(const Linear *l, const float *x, long by_x, float *y, long by_y, int rows, int add, int first, int end) {
    int r;
    for (; first + WIDE <= end; first += WIDE) { /* these weights stay near for all rows */
        r = 0;
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, WIDE, ROWS, TOGETHER);
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, WIDE, 2, WIDE / 2);
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, WIDE, 1, WIDE);
    }
    for (; first + WIDE / 2 <= end; first += WIDE / 2) {
        r = 0;
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, WIDE / 2, ROWS, TOGETHER);
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, WIDE / 2, 1, WIDE / 2);
    }
    for (; first < end; first++) {
        r = 0;
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, 1, ROWS, 1);
        tiles(l, x, by_x, y, by_y, &r, rows, add, first, 1, 1, 1);
    }
}

/* ---- one team's images ---- */

typedef struct {
    const Block *block;
    const Batch *batch;
    int first, count;     /* images */
    int rows;             /* images, or twice as many if guided */
    int members;
    long wide, widest;    /* width and the largest layer's, to the next multiple of 16 */
    long tokens, head;    /* tokens and head_dim, likewise */
    float *all;           /* whole memory: */
    float *keys, *values; /* (layers, rows, heads) x panels (tokens / 16, head_dim, 16), and x (tokens, head) */
    float *h, *mixed, *inner;
    float *normed, *scores; /* each member's own */
    atomic_int arrived, meetings, late;
    int late_tokens, alone; /* as the first member counts them; the others are gone */
} Team;

typedef struct {
    Team *team; /* NULL: nothing to do */
    int number; /* in the team */
    atomic_int *gate;
    int busy; /* core of the thread that started this one */
} Member;

static long up(long n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* The first of `n` pieces of work for member `number`; its last is before the first of the next member */
static int share(const Member *m, int number, int n) { return (int)((long)n * number / m->team->members); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Wait for all members. Who waits long sleeps, so that others get the core. */
static void meet(const Member *m) {
    Team *t = m->team;
    int members = t->members, meeting = atomic_load(&t->meetings);
    if (members == 1) return;
    if (atomic_fetch_add(&t->arrived, 1) + 1 == members) {
        atomic_store(&t->arrived, 0);
        atomic_fetch_add(&t->meetings, 1);
        return;
    }
    double since = 0;
    for (int tries = 0; atomic_load(&t->meetings) == meeting; tries++) {
        if (tries < PATIENCE) continue;
        if (!since) since = now();
        if (now() - since > LATE) {
            atomic_store(&t->late, 1);
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        }
    }
}

/* This member's panels of y = x W^T + b, or y += ... */
static void part(const Member *m, const Linear *l, const float *x, long by_x, float *y, long by_y, int rows, int add) {
    int panels = (l->out + PANEL - 1) / PANEL;
    linear(l, x, by_x, y, by_y, rows, add, share(m, m->number, panels), share(m, m->number + 1, panels));
}

/* to = (h - mean) / sqrt(variance + eps), or h / sqrt(mean square + eps); rows are filled up with zeros */
static void normalise_row(const Layer *layer, const float *h, float *to, int width) {
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

/* All rows, into this member's own place: sending them costs more than computing them again. */
static const float *normalised(const Member *m, const Layer *layer) {
    const Team *t = m->team;
    float *normed = t->normed + m->number * t->rows * t->wide;
    for (int r = 0; r < t->rows; r++) normalise_row(layer, t->h + r * t->wide, normed + r * t->wide, t->block->width);
    return normed;
}

static void rotate(float *x, const float *turn, int pairs) {
    for (int i = 0; i < pairs; i++) {
        float even = x[2 * i], odd = x[2 * i + 1], cosine = turn[2 * i], sine = turn[2 * i + 1];
        x[2 * i] = even * cosine - odd * sine;
        x[2 * i + 1] = even * sine + odd * cosine;
    }
}

/* One head of one row: its key and value go into the cache at `position`, and `mixed` (head_dim) is what it reads there. */
static void attend(const Member *m, float *q, const float *k, const float *v, float *keys, float *values, float scale,
                   int position, float *mixed) {
    const Team *t = m->team;
    float *scores = t->scores + m->number * t->tokens;
    int e = t->block->head_dim, seen = position + 1;
    float *key = keys + (position / PANEL) * (long)e * PANEL + position % PANEL;
    for (int i = 0; i < e; i++) key[i * PANEL] = k[i];
    memcpy(values + position * t->head, v, e * sizeof(float));
    for (int j = 0; j < seen; j += PANEL) {
        const float *panel = keys + (long)j * e;
        vec logits = {0};
        for (int i = 0; i < e; i++) logits += q[i] * *(const vec *)(panel + i * PANEL);
        *(vec *)(scores + j) = logits * scale;
    }
    for (int j = seen; j % PANEL; j++) scores[j] = -INFINITY; /* becomes e^-87 below, which no sum notices */
    vec most = all(-INFINITY), totals = {0};
    for (int j = 0; j < seen; j += PANEL) {
        vec logits = *(vec *)(scores + j);
        most = choose(logits > most, logits, most);
    }
    float largest = largest_of(most);
    for (int j = 0; j < seen; j += PANEL) totals += *(vec *)(scores + j) = exponential(*(vec *)(scores + j) - largest);
    float inverse = 1.0f / sum_of(totals);
    for (int i = 0; i < t->head; i += PANEL) {
        vec a = {0}, b = {0}, c = {0}, d = {0};
        const float *value = values + i;
        int j = 0;
        for (; j + 4 <= seen; j += 4, value += 4 * t->head) {
            a += scores[j] * *(const vec *)value;
            b += scores[j + 1] * *(const vec *)(value + t->head);
            c += scores[j + 2] * *(const vec *)(value + 2 * t->head);
            d += scores[j + 3] * *(const vec *)(value + 3 * t->head);
        }
        for (; j < seen; j++, value += t->head) a += scores[j] * *(const vec *)value;
        vec out = ((a + b) + (c + d)) * inverse;
        memcpy(mixed + i, &out, (i + PANEL <= e ? PANEL : e - i) * sizeof(float));
    }
}

/* This member's heads of all rows */
static void attention(const Member *m, int number, int position) {
    const Team *t = m->team;
    const Block *b = t->block;
    int e = b->head_dim, heads = t->rows * b->heads;
    for (int n = share(m, m->number, heads); n < share(m, m->number + 1, heads); n++) {
        int r = n / b->heads, head = n % b->heads, image = t->first + r % t->count;
        int row = (r / t->count) * t->batch->images + image;
        float scale = 1.0f / sqrtf((float)e);
        if (t->batch->temperature) scale /= t->batch->temperature[row];
        long cached = (long)number * heads + n;
        float *q = t->inner + r * t->widest + head * e, *k = q + b->width, *v = k + b->width;
        if (b->rope) {
            const float *turn = b->rope + (long)position * e;
            rotate(q, turn, e / 2);
            rotate(k, turn, e / 2);
        }
        attend(m, q, k, v, t->keys + cached * t->tokens * e, t->values + cached * t->batch->tokens * t->head, scale, position,
               t->mixed + r * t->wide + head * e);
    }
}

/* This member's part of the hidden values of all rows */
static void activate(const Member *m, const Layer *layer) {
    const Team *t = m->team;
    int hidden = layer->down.in, panels = (hidden + PANEL - 1) / PANEL;
    for (int r = 0; r < t->rows; r++) {
        float *x = t->inner + r * t->widest;
        for (int g = share(m, m->number, panels); g < share(m, m->number + 1, panels); g++) {
            int i = g * PANEL; /* the last panel may run into what nothing reads any more */
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

/* This member's channels of h: the token's values, its position and its class */
static void embed(const Member *m, int position) {
    const Team *t = m->team;
    const Block *b = t->block;
    const Batch *batch = t->batch;
    int panels = (b->width + PANEL - 1) / PANEL, first = share(m, m->number, panels) * PANEL;
    int end = share(m, m->number + 1, panels) * PANEL;
    end = end < b->width ? end : b->width;
    part(m, &b->token_in, batch->x + ((long)t->first * batch->tokens + position) * b->token_dim,
         (long)batch->tokens * b->token_dim, t->h, t->wide, t->count, 0);
    const float *bias = b->token_bias + (b->biases > 1 ? (long)position * b->width : 0);
    for (int r = t->rows - 1; r >= 0; r--) { /* the second branch first: it has the values of the first */
        float *h = t->h + r * t->wide, *token = t->h + r % t->count * t->wide;
        long row = (long)(r / t->count) * batch->images + t->first + r % t->count;
        const float *condition = batch->condition ? batch->condition + (batch->conditions > 1 ? row * b->width : 0) : NULL;
        for (int i = first; i < end; i++) h[i] = token[i] + bias[i];
        if (condition)
            for (int i = first; i < end; i++) h[i] += condition[i];
    }
}

/* What params_out says after the tokens at `position`, whose values stand in x, into t->inner. */
static void step(const Member *m, int position) {
    const Team *t = m->team;
    const Block *b = t->block;
    embed(m, position);
    meet(m);
    for (int n = 0; n < b->num_layers; n++) {
        const Layer *layer = b->layers + n;
        part(m, &layer->qkv, normalised(m, layer), t->wide, t->inner, t->widest, t->rows, 0);
        meet(m);
        attention(m, n, position);
        meet(m);
        part(m, &layer->out, t->mixed, t->wide, t->h, t->wide, t->rows, 1);
        meet(m);
        part(m, &layer->up, normalised(m, layer), t->wide, t->inner, t->widest, t->rows, 0);
        meet(m);
        activate(m, layer);
        meet(m);
        part(m, &layer->down, t->inner, t->widest, t->h, t->wide, t->rows, 1);
        meet(m);
    }
    part(m, &b->params_out, t->h, t->wide, t->inner, t->widest, t->rows, 0);
    meet(m);
}

static float held(float x, float bound) { return bound == 0 ? x : x > bound ? bound : x < -bound ? -bound : x; }

/* The tokens at `position` of this member's images, from the parameters in t->inner: both branches clamped, then c + g (c - u). */
static void affine(const Member *m, int position) {
    const Team *t = m->team;
    const Block *b = t->block;
    const Batch *batch = t->batch;
    int d = b->token_dim;
    for (int r = share(m, m->number, t->count); r < share(m, m->number + 1, t->count); r++) {
        long at = ((long)(t->first + r) * batch->tokens + position) * d;
        float g = batch->guidance ? batch->guidance[t->first + r] * batch->weights[position] : 0;
        const float *c = t->inner + r * t->widest, *u = t->inner + (long)(r + t->count) * t->widest;
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

/* Memory of a team; 0 where there is not enough */
static int furnish(Team *t) {
    const Block *b = t->block;
    long most = up(b->params_out.out);
    for (int n = 0; n < b->num_layers; n++) {
        long qkv = up(b->layers[n].qkv.out), inner = up(b->layers[n].up.out);
        most = qkv > most ? qkv : most;
        most = inner > most ? inner : most;
    }
    t->wide = up(b->width), t->widest = most + PANEL, t->tokens = up(t->batch->tokens), t->head = up(b->head_dim);
    long cached = (long)b->num_layers * t->rows * b->heads;
    long keys = cached * t->tokens * b->head_dim, values = cached * t->batch->tokens * t->head, row = t->rows * t->wide;
    t->all = calloc(keys + values + (2 + t->members) * row + t->rows * t->widest + t->members * t->tokens, sizeof(float));
    if (!t->all) return 0;
    t->keys = t->all, t->values = t->keys + keys, t->h = t->values + values, t->mixed = t->h + row;
    t->inner = t->mixed + row, t->normed = t->inner + t->rows * t->widest, t->scores = t->normed + t->members * row;
    for (int r = 0; r < t->count; r++) { /* the first token is z's */
        long at = (long)(t->first + r) * t->batch->tokens * b->token_dim;
        memcpy(t->batch->x + at, t->batch->z + at, b->token_dim * sizeof(float));
    }
    return 1;
}

static void *solve_images(void *given) {
    const Member *m = given;
    while (!atomic_load(m->gate)) {} /* soon it is known who works with whom */
    Team *t = m->team;
    if (!t) return NULL;
    if (m->number == 0) furnish(t);
    meet(m);
    if (m->number == 0) atomic_store(&t->late, 0); /* a thread may be long in starting */
    for (int position = 1; t->all && position < t->batch->tokens; position++) {
        step(m, position - 1);
        affine(m, position);
        if (m->number == 0 && !t->alone && atomic_exchange(&t->late, 0)) t->alone = ++t->late_tokens >= MOST_LATE;
        meet(m);
        if (t->alone && m->number) return NULL;
        if (t->alone) t->members = 1; /* the first goes on without others: waiting for them costs more than their work */
    }
    return NULL;
}

#ifdef __linux__
static int core(void) { return sched_getcpu(); }

/* Move this thread away from the core `busy`. Otherwise the system may leave it there, behind the thread that waits for it. */
static void leave(int busy) {
    cpu_set_t cores;
    if (busy < 0 || sched_getaffinity(0, sizeof(cores), &cores) || !CPU_ISSET(busy, &cores) || CPU_COUNT(&cores) < 2) return;
    CPU_CLR(busy, &cores);
    sched_setaffinity(0, sizeof(cores), &cores);
}
#else
static int core(void) { return -1; }
static void leave(int busy) { (void)busy; }
#endif

static void *join(void *given) {
    const Member *m = given;
    leave(m->busy);
    return solve_images(given);
}

static long weights_of(const Layer *l) {
    return (long)l->qkv.in * l->qkv.out + (long)l->out.in * l->out.out + (long)l->up.in * l->up.out + (long)l->down.in * l->down.out;
}

/* Members of a team: one, unless the rows are so few that most of the time goes into reading weights from beyond a core's own
   cache. Then all work together, as far as each has a tile of the narrowest layer. Measured on two cores with 2 MiB each. */
static int members_of(const Block *block, const Batch *batch, int threads) {
    int rows = batch->images * (batch->guidance ? 2 : 1), most = (block->width + PANEL - 1) / PANEL / (WIDE / 2);
    long weights = 0;
    for (int n = 0; n < block->num_layers; n++) weights += weights_of(block->layers + n);
    if (rows > FEW_ROWS || weights * (long)sizeof(float) < CACHE || most < 2) return 1;
    return threads < most ? threads : most;
}

/* Images and members of each team; teams with no images have no members */
static void arrange(const Block *block, const Batch *batch, Team *teams, Member *members, int threads) {
    int each = members_of(block, batch, threads), given = 0;
    int count = threads / each < batch->images ? threads / each : batch->images;
    for (int n = 0; n < count; n++) {
        int images = (batch->images - given) / (count - n);
        Team *t = teams + n;
        t->block = block, t->batch = batch, t->first = given, t->count = images, t->rows = batch->guidance ? 2 * images : images;
        t->members = each;
        for (int k = 0; k < each; k++) members[n * each + k].team = t, members[n * each + k].number = k;
        given += images;
    }
}

/* x of the whole batch, by at most so many threads; 0, or 1 where there was not enough memory. */
int32_t solve_block(const Block *block, const Batch *batch, int32_t threads) {
    int failed = 0, started = 1;
    if (threads < 1) threads = 1;
    Team *teams = calloc(threads, sizeof(Team));
    Member *members = calloc(threads, sizeof(Member));
    pthread_t *ids = calloc(threads, sizeof(pthread_t));
    atomic_int gate = 0;
    if (teams && members && ids) {
        for (int n = 0; n < threads; n++) members[n].gate = &gate, members[n].busy = core();
        while (started < threads && !pthread_create(&ids[started], NULL, join, &members[started])) started++;
        arrange(block, batch, teams, members, started); /* by as many threads as there are */
        atomic_store(&gate, 1);
        solve_images(&members[0]);
        for (int n = 1; n < started; n++) pthread_join(ids[n], NULL);
        for (int n = 0; n < started; n++) {
            failed |= teams[n].members && !teams[n].all;
            free(teams[n].all);
        }
    } else {
        failed = 1;
    }
    free(teams);
    free(members);
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
