#include "common/model/model.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/model/safetensors.h"
#include "common/tensor/memory.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int rope_fill(struct model *model, struct error *err)
{
    const struct shape *shape = &model->shape;
    if (shape->positions) {
        return 0;
    }
    model->rope = floats_alloc((size_t)shape->T * (size_t)shape->D);
    if (model->rope == NULL) {
        return error_set(err, -ENOMEM, "model: no memory for %d positions", shape->T);
    }
    int32_t half = shape->D / 2;
    for (int32_t i = 0; i < half; i++) {
        double frequency = shape_rope_frequency(shape, i);
        for (int32_t t = 0; t < shape->T; t++) {
            model->rope[(size_t)t * (size_t)shape->D + (size_t)i] = (float)cos(t * frequency);
            model->rope[(size_t)t * (size_t)shape->D + (size_t)(half + i)] =
                (float)sin(t * frequency);
        }
    }
    return 0;
}

static const float *vector_of(const struct model *model, int32_t layer, enum param_role role)
{
    const struct param *param = params_find(&model->params, layer, role);
    return param == NULL ? NULL : model->weights + param->offset;
}

// matrix_plan describes the matrix whose rows begin at `role` and number N, and reserves its packed
// place.
static struct matrix matrix_plan(struct model *model, int32_t layer, enum param_role role,
                                 int64_t N, int64_t K)
{
    struct matrix matrix = {.rows = vector_of(model, layer, role), .N = N, .K = K};
    if (model->packed != NULL) { // not in the first run of plan()
        matrix.packed = operand_packed(model->compute, model->packed + model->packed_floats, K);
    }
    model->packed_floats += (size_t)packed_count(model->compute, N, K);
    if (!model->trains) {
        return matrix;
    }
    if (model->packed != NULL) {
        matrix.back = operand_inputs(model->kernels, model->packed + model->packed_floats,
                                     inputs_rows(matrix.rows, K), N);
    }
    model->packed_floats += (size_t)inputs_count(model->kernels, N, K);
    return matrix;
}

static void layer_plan(struct model *model, int32_t l)
{
    const struct shape *s = &model->shape;
    const int64_t HD = (int64_t)s->H * s->D, KD = (int64_t)s->KV * s->D;
    struct layer *layer = &model->layers[l];
    layer->norm1 = vector_of(model, l, PARAM_NORM1);
    layer->norm1_bias = vector_of(model, l, PARAM_NORM1_BIAS);
    layer->qkv = matrix_plan(model, l, PARAM_Q, HD + 2 * KD, s->C);
    layer->qkv_bias = vector_of(model, l, PARAM_Q_BIAS);
    layer->q_norm = vector_of(model, l, PARAM_Q_NORM);
    layer->k_norm = vector_of(model, l, PARAM_K_NORM);
    layer->out = matrix_plan(model, l, PARAM_O, s->C, HD);
    layer->out_bias = vector_of(model, l, PARAM_O_BIAS);
    layer->norm2 = vector_of(model, l, PARAM_NORM2);
    layer->norm2_bias = vector_of(model, l, PARAM_NORM2_BIAS);
    layer->up = s->gated ? matrix_plan(model, l, PARAM_GATE, 2L * s->F, s->C)
                         : matrix_plan(model, l, PARAM_UP, s->F, s->C);
    layer->up_bias = vector_of(model, l, PARAM_UP_BIAS);
    layer->down = matrix_plan(model, l, PARAM_DOWN, s->C, s->F);
    layer->down_bias = vector_of(model, l, PARAM_DOWN_BIAS);
}

// plan sets every pointer; it runs twice, first only to learn how much is packed.
static void plan(struct model *model)
{
    const struct shape *s = &model->shape;
    model->packed_floats = 0;
    model->embed = vector_of(model, -1, PARAM_EMBED);
    model->positions = vector_of(model, -1, PARAM_POSITIONS);
    model->final_norm = vector_of(model, -1, PARAM_FINAL_NORM);
    model->final_norm_bias = vector_of(model, -1, PARAM_FINAL_NORM_BIAS);
    for (int32_t l = 0; l < s->L; l++) {
        layer_plan(model, l);
    }
    model->head = matrix_plan(model, -1, s->tied ? PARAM_EMBED : PARAM_HEAD, s->V, s->C);
}

// The results of a compute type are the same on every instruction set, so the id does not name it.
// Its first word counts the changes of the arithmetic that changed bits.
static const char *const numerics_ids[] = {
    [COMPUTE_F32] = "kelvin2-cpu-f32",
    [COMPUTE_BF16] = "kelvin2-cpu-bf16",
    [COMPUTE_BF16_AMX] = "kelvin2-cpu-bf16-amx",
};

enum compute numerics_compute(const char *numerics)
{
    for (enum compute compute = COMPUTE_F32; compute <= COMPUTE_BF16_AMX; compute++) {
        if (strcmp(numerics, numerics_ids[compute]) == 0) {
            return compute;
        }
    }
    return COMPUTE_AUTO;
}

static int create(struct model **out, const struct shape *shape, enum compute compute, bool trains,
                  struct error *err)
{
    CLEANUP(model_destroyp) struct model *model = calloc(1, sizeof(*model));
    if (model == NULL) {
        return error_set(err, -ENOMEM, "model: out of memory");
    }
    model->shape = *shape;
    model->kernels = kernels_best(compute);
    model->compute = model->kernels->compute;
    model->numerics = numerics_ids[model->compute];
    model->trains = trains;
    int code = params_init(&model->params, shape, err);
    if (code < 0) {
        return code;
    }
    model->layers = calloc((size_t)shape->L, sizeof(*model->layers));
    model->weights = floats_alloc(model->params.elements);
    if (model->layers == NULL || model->weights == NULL) {
        return error_set(err, -ENOMEM, "model: no memory for %zu weights", model->params.elements);
    }
    plan(model);
    model->packed = floats_alloc(model->packed_floats);
    if (model->packed == NULL) {
        return error_set(err, -ENOMEM, "model: no memory for %zu weights", model->packed_floats);
    }
    plan(model);
    code = rope_fill(model, err);
    if (code < 0) {
        return code;
    }
    *out = TAKE(model);
    return 0;
}

int model_create(struct model **out, const struct shape *shape, enum compute compute,
                 struct error *err)
{
    return create(out, shape, compute, false, err);
}

int model_create_training(struct model **out, const struct shape *shape, enum compute compute,
                          struct error *err)
{
    return create(out, shape, compute, true, err);
}

void model_destroy(struct model *model)
{
    if (model != NULL) {
        params_finish(&model->params);
        floats_free(model->weights);
        floats_free(model->packed);
        floats_free(model->rope);
        free(model->layers);
        free(model);
    }
}

static void matrix_pack(const struct model *model, const struct matrix *matrix)
{
    const struct kernels *k = model->kernels;
    k->pack(without_const(matrix->packed.data), matrix->rows, matrix->N, matrix->K);
    if (model->trains) {
        inputs_pack(k, without_const(matrix->back.data), inputs_rows(matrix->rows, matrix->K),
                    matrix->N, matrix->K);
    }
}

void model_set(struct model *model, const float *weights, enum dtype type)
{
    if (type == DTYPE_BF16) {
        model->kernels->round_bf16(model->weights, weights, (int64_t)model->params.elements);
    } else {
        CHECK(type == DTYPE_F32);
        memcpy(model->weights, weights, model->params.elements * sizeof(float));
    }
    for (int32_t l = 0; l < model->shape.L; l++) {
        const struct layer *layer = &model->layers[l];
        matrix_pack(model, &layer->qkv);
        matrix_pack(model, &layer->out);
        matrix_pack(model, &layer->up);
        matrix_pack(model, &layer->down);
    }
    matrix_pack(model, &model->head);
}

int model_load(struct model **out, const char *dir, enum compute compute, struct error *err)
{
    struct shape shape;
    int code = shape_read(&shape, dir, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(params_finish) struct params params = {0};
    CLEANUP(model_destroyp) struct model *model = NULL;
    code = params_init(&params, &shape, err);
    code = code < 0 ? code : safetensors_check(&params, &shape, dir, err);
    code = code < 0 ? code : model_create(&model, &shape, compute, err);
    if (code < 0) {
        return code;
    }
    CHECK(model != NULL);
    CLEANUP(floats_freep) float *weights = floats_alloc(model->params.elements);
    if (weights == NULL) {
        return error_set(err, -ENOMEM, "%s: no memory for its weights", dir);
    }
    enum dtype stored = DTYPE_F32;
    code = safetensors_read(weights, &stored, &model->params, &shape, dir, err);
    if (code < 0) {
        return code;
    }
    model_set(model, weights, DTYPE_F32); // what the file stores is exact in f32
    *out = TAKE(model);
    return 0;
}
