// kintoun plan: what a run will take, without running it.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "train/ceiling.h"
#include "train/commands.h"
#include "train/options.h"
#include "train/traffic.h"
#include "train/trainer.h"

static const char *const HELP =
    "kintoun plan CONFIG --ranks N [section.key=value ...]\n"
    "Says what the run will take on N ranks, without running it: parameters, memory per rank by\n"
    "purpose under every recomputation policy, FLOPs, communication, and for each stage the packs\n"
    "that its first steps would hold. Where the data is missing, all but the packs.\n"
    "  --node N       ranks of a node (8); what parallel.shard = 0 chooses depends on it\n"
    "  --memory GIB   what a rank may use, of a GPU without what NCCL takes (some GiB); else the\n"
    "                 free memory here: of a GPU, or of this node, shared by its ranks\n"
    "  --tflops T     products per rank; else measured here\n"
    "  --share S      of that, which a whole step reaches (0.4); the time is an estimate by it\n";

typedef struct {
    int64_t ranks, node;
    double memory, tflops, share;
} Options;

// clang-format off
#define ROW(key, type, field, standard, min, max, help) \
    {key, type, offsetof(Options, field), standard, min, max, NULL, help, 0, NULL, 0, 0}
static const Setting option_table[] = {
    ROW("ranks", SETTING_WHOLE, ranks, NULL, 1, 1 << 20, "--ranks N: as mpirun will start"),
    ROW("node", SETTING_WHOLE, node, "8", 1, 65536, "ranks of a node"),
    ROW("memory", SETTING_NUMBER, memory, "0", 0, 1e6, "GiB of a rank; 0: what is free here"),
    ROW("tflops", SETTING_NUMBER, tflops, "0", 0, 1e6, "of a rank; 0: measured here"),
    ROW("share", SETTING_NUMBER, share, "0.4", 0.01, 1, "of the products' speed"),
    {NULL, SETTING_WHOLE, 0, NULL, 0, 0, NULL, NULL, 0, NULL, 0, 0}};
// clang-format on

static const char *const policies[] = {"none", "cheap", "linear", "block"};
enum { POLICIES = 4, STEPS_PLANNED = 20 };

typedef struct {
    Options options;
    Config config;
    Mesh mesh;
    Model model;
    Planner *planner;  // NULL: data is missing.
    Recompute recompute;
    double flops;  // Of a rank and second.
} Plan;

// Means over the first steps of a stage.
typedef struct {
    double packs, fill, balance, samples, tokens, text, flops;
    double work;  // FLOPs that the ranks wait for: of the largest pack of each round.
    int steps;    // 0: assumed, not planned.
} StageFacts;

// ---- reading
static bool read_config(Plan *plan, const Words *words, Problems *problems) {
    Error error;
    int64_t bytes;
    const char *const *settings = words->word + 1;
    if (words->count == 0 || strchr(words->word[0], '=') != NULL) {
        problems_add(problems, "command line: which CONFIG? see kintoun plan --help");
        return false;
    }
    char *text = file_read(words->word[0], 1 << 20, &bytes, &error);
    if (text == NULL) {
        problems_add(problems, "%s", error.text);
        return false;
    }
    const bool ok = config_parse(&plan->config, text, bytes, words->word[0], settings,
                                 words->count - 1, problems);
    free(text);
    return ok;
}

// The first data set that is not there, or NULL.
static const char *missing_data(const Config *config) {
    for (int64_t s = 0; s < config->data.source_count; s++) {
        char path[PATH_BYTES_MAX];
        Error error;
        const char *folder = config->data.sources[s].path;
        if (!path_join(path, folder, "index.json", &error) || !path_exists(path)) return folder;
    }
    return NULL;
}

// Bytes that a rank may use.
static int64_t memory_available(const Options *options) {
    if (options->memory > 0) return (int64_t)(options->memory * 0x1p30);
    return device_memory_free((int)min_i64(options->node, options->ranks)) / 10 * 9;
}

// Only what is measured here needs a device: a plan for elsewhere works without one.
static bool take_device(const Options *options, Problems *problems) {
    Error error;
    if (options->memory > 0 && options->tflops > 0) return true;
    const bool ok = device_start(0, &error);
    if (!ok) {
        problems_add(problems,
                     "%s; or say what a rank has where the run will be: --memory GIB "
                     "--tflops T",
                     error.text);
    }
    return ok;
}

static bool prepare(Plan *plan, Problems *problems) {
    const Config *c = &plan->config;
    const int ranks = (int)plan->options.ranks;
    StageData stages[STAGES_MAX];
    for (int64_t s = 0; s < c->stage_count; s++) stages[s] = c->stages[s].data;
    check_layout(c, ranks, problems);
    if (problems->count > 0) return false;
    const MeshConfig layout = choose_layout(c, ranks, (int)min_i64(plan->options.node, ranks),
                                            c->data.cache_bytes, memory_available(&plan->options));
    mesh_shape(&plan->mesh, &layout, 0, ranks);
    model_record(&plan->model, &c->model, &plan->mesh);
    if (missing_data(c) != NULL) return true;
    const ModelNeeds needs = model_needs(&c->model);
    plan->planner = planner_create(&c->data, stages, (int)c->stage_count, &needs,
                                   (uint64_t)c->run.seed, problems);
    return problems->count == 0;
}

// ---- the model
static double mega(double x) {
    return x * 1e-6;
}

static int64_t unit_parameters(const ParamTable *table, int unit) {
    int64_t count = 0;
    for (int r = param_unit_first(table, unit); r < param_unit_first(table, unit + 1); r++) {
        count += table->rows[r].count;
    }
    return count;
}

static void print_model(const Plan *plan) {
    const ParamTable *table = &plan->model.params;
    const ModelConfig *m = &plan->config.model;
    const Cost cost = model_cost(&plan->model);
    printf("model: %" PRId64 " layers, width %" PRId64 ", %" PRId64 " heads of %" PRId64
           ", text width %" PRId64 "\n",
           m->layers, model_width(m), m->heads, m->head_dim, m->text_width);
    printf("parameters: %.1f M (stem %.1f M, blocks %.1f M, head %.1f M)\n",
           mega((double)param_total(table)), mega((double)unit_parameters(table, 0)),
           mega((double)(m->layers * unit_parameters(table, 1))),
           mega((double)unit_parameters(table, table->units - 1)));
    printf(
        "FLOPs of a forward: %.4g M per token + %.4g M per pair of tokens of a sample + %.4g M "
        "per text token\n",
        mega((double)cost.token), mega((double)cost.token_token), mega((double)cost.text));
    printf(
        "layout: %d ranks, shard %d x replicas %d, sequence %d; computes in %s, gradients "
        "travel as %s\n",
        plan->mesh.size, plan->mesh.shards, plan->mesh.replicas, plan->mesh.sequences, REAL_NAME,
        config_wire(&plan->config) == TYPE_BF16 ? "bf16" : "fp32");
    if (!plan->mesh.invariant) {
        printf(
            "  sequence does not divide shard: what is learned depends on the layout, to "
            "rounding\n");
    }
}

// ---- memory
static void print_bytes(const char *name, const MemoryPlan *plans, size_t offset) {
    printf("  %-34s", name);
    for (int i = 0; i < POLICIES; i++) {
        int64_t bytes;
        memcpy(&bytes, (const char *)&plans[i] + offset, sizeof(bytes));
        printf(" %11.1f", (double)bytes / 1048576);
    }
    printf("\n");
}

static void print_memory(Plan *plan) {
    const Config *c = &plan->config;
    MemoryPlan plans[POLICIES];
    int64_t data = 0;
    if (plan->planner != NULL) {
        data = loader_bytes(plan->planner, c->data.ahead, c->data.cache_bytes);
    }
    for (int i = 0; i < POLICIES; i++) {
        plans[i] = memory_plan(&plan->model, &plan->mesh, c, data, (Recompute)i);
    }
    printf("\nmemory of a rank, in MiB, by model.recompute\n  %-34s", "");
    for (int i = 0; i < POLICIES; i++) printf(" %11s", policies[i]);
    printf("\n");
    print_bytes("master weights, fp32", plans, offsetof(MemoryPlan, fsdp.master));
    print_bytes("moments and average, fp32", plans, offsetof(MemoryPlan, optimizer));
    print_bytes("weights to compute with", plans, offsetof(MemoryPlan, fsdp.slots));
    print_bytes("gradients of two units", plans, offsetof(MemoryPlan, fsdp.leaf));
    print_bytes("gradients exchanged", plans, offsetof(MemoryPlan, fsdp.exchange));
    print_bytes("sums of gradients", plans, offsetof(MemoryPlan, fsdp.stack));
    print_bytes("inputs of blocks, tokens, outputs", plans, offsetof(MemoryPlan, model.inputs));
    print_bytes("kept for the backward", plans, offsetof(MemoryPlan, model.kept));
    print_bytes("working memory of a block", plans, offsetof(MemoryPlan, model.work));
    print_bytes("scratch of products", plans, offsetof(MemoryPlan, model.products));
    print_bytes("batch", plans, offsetof(MemoryPlan, batch.device));
    print_bytes("sampling, for a while", plans, offsetof(MemoryPlan, sampling.device));
    print_bytes("saving, for a while", plans, offsetof(MemoryPlan, saving.device));
    printf("  of the host:\n");
    print_bytes(plan->planner != NULL ? "data" : "data: unknown, it is missing", plans,
                offsetof(MemoryPlan, data));
    print_bytes("batch", plans, offsetof(MemoryPlan, batch.host));
    print_bytes("offloaded inputs of blocks", plans, offsetof(MemoryPlan, model.host));
    print_bytes("sampling, for a while", plans, offsetof(MemoryPlan, sampling.host));
    print_bytes("saving, for a while", plans, offsetof(MemoryPlan, saving.host));
    print_bytes("total of the host", plans, offsetof(MemoryPlan, host));
    print_bytes(strcmp(device_backend(), "cpu") == 0 ? "total, the host's with it" : "total", plans,
                offsetof(MemoryPlan, total));
    const int64_t available = memory_available(&plan->options);
    plan->recompute = choose_recompute(&plan->model, &plan->mesh, c, data, available);
    memory_plan(&plan->model, &plan->mesh, c, data, plan->recompute);
    const int64_t total = plans[plan->recompute].total;
    printf(
        "recompute: %s%s; it takes %.1f of %.1f MiB that a rank may use%s%s\n",
        policies[plan->recompute], c->model.recompute == RECOMPUTE_AUTO ? " (auto)" : "",
        (double)total / 1048576, (double)available / 1048576,
        plan->options.memory > 0 ? "" : " (9/10 of what is free here, shared by a node's ranks)",
        total > available ? ": TOO MUCH; use more ranks, smaller packs or parallel.sequence" : "");
}

// ---- steps
// What the ranks wait for: in each round a replica's largest pack; the slowest replica's sum.
static double waited_work(const Plan *plan, const PlanPack *packs, int count) {
    const Mesh *mesh = &plan->mesh;
    const MeshConfig layout = {mesh->sequences, mesh->shards};
    double slowest = 0;
    for (int replica = 0; replica < mesh->replicas; replica++) {
        Mesh of;
        mesh_shape(&of, &layout, replica * mesh->shards, mesh->size);
        double sum = 0;
        for (int round = 0; round < mesh_rounds(&of, count); round++) {
            int64_t largest = 0;
            for (int rank = 0; rank < mesh->shards; rank++) {
                int sequence_index;
                const int pack = mesh_pack_of(&of, count, round, rank, &sequence_index);
                if (pack >= 0) largest = max_i64(largest, packs[pack].work);
            }
            sum += (double)largest;
        }
        slowest = sum > slowest ? sum : slowest;
    }
    return slowest;
}

static StageFacts planned(const Plan *plan, int stage, int64_t first) {
    const StageData *data = planner_stage(plan->planner, stage);
    StageFacts facts = {.steps = (int)min_i64(STEPS_PLANNED, data->steps)};
    StepPlan *step = step_plan_create(plan->planner);
    Cursor cursor;
    cursor_init(&cursor, plan->planner);
    cursor.step = first;
    for (int i = 0; i < facts.steps; i++) {
        plan_step(step, plan->planner, &cursor);
        double largest = 0, work = 0, text = 0;
        for (int64_t p = 0; p < step->pack_count; p++) {
            const double of_pack = (double)step->packs[p].work;
            largest = of_pack > largest ? of_pack : largest;
            work += of_pack;
            text += (double)step->packs[p].text_tokens;
        }
        const double share = 1.0 / facts.steps, packs = (double)step->pack_count;
        facts.packs += share * packs;
        facts.fill += share * (double)step->tokens / (packs * (double)data->tokens);
        facts.balance += share * work / packs / largest;
        facts.samples += share * (double)step->sample_count;
        facts.tokens += share * (double)step->tokens;
        facts.text += share * text;
        facts.flops += share * step_flops(step, &plan->model);
        facts.work += share * waited_work(plan, step->packs, (int)step->pack_count);
    }
    cursor_free(&cursor);
    step_plan_free(step);
    return facts;
}

// Without data: packs full of the largest sample that the stage admits.
static StageFacts assumed(const Plan *plan, int stage) {
    const StageData *data = &plan->config.stages[stage].data;
    const PatchSize patch = model_patch(&plan->config.model);
    const Cost cost = model_cost(&plan->model);
    const double frames = (double)(data->frames_max / patch.t);
    const double cells = (double)(data->height_max / patch.h * (data->width_max / patch.w));
    const double limit = (double)data->tokens;
    const double tokens = frames * cells < limit ? frames * cells : limit;
    const double samples = limit / tokens, text = (double)data->text_tokens / samples;
    const double work =
        samples *
        ((double)cost.segment + tokens * (double)cost.token + text * (double)cost.text +
         tokens * tokens * (double)cost.token_token + tokens * text * (double)cost.token_text);
    const double packs = (double)data->packs;
    return (StageFacts){.packs = packs,
                        .fill = 1,
                        .balance = 1,
                        .samples = packs * samples,
                        .tokens = packs * limit,
                        .text = packs * text * samples,
                        .flops = 3 * packs * work,
                        .work = work * mesh_rounds(&plan->mesh, (int)data->packs)};
}

// Forward, backward, and what is computed again, of what the ranks wait for.
static double step_seconds(const Plan *plan, const StageFacts *facts) {
    const Cost cost = model_cost(&plan->model);
    const double products = (double)cost.token * facts->tokens + (double)cost.text * facts->text;
    double again = 0;
    if (plan->recompute == RECOMPUTE_BLOCK) again = 1;
    if (plan->recompute == RECOMPUTE_LINEAR) again = 3 * products / facts->flops;
    return (3 + again) * facts->work / plan->mesh.sequences / (plan->options.share * plan->flops);
}

static void print_traffic(const Plan *plan, const StageFacts *facts) {
    const Config *c = &plan->config;
    const FsdpConfig sharding = {config_wire(c), c->parallel.reshard_after_forward, 1};
    printf("\nsent by a rank in a step, in MiB, on average\n  %-12s %10s %10s %10s %10s %10s\n",
           "stage", "weights", "gradients", "replicas", "attention", "total");
    for (int64_t s = 0; s < c->stage_count; s++) {
        const Traffic t =
            traffic_of_step(&plan->model, &sharding, (int)c->stages[s].data.packs, facts[s].tokens);
        const double unit = plan->mesh.size * 1048576.0;
        printf("  %-12.12s %10.1f %10.1f %10.1f %10.1f %10.1f\n", c->stages[s].name,
               t.gathers / unit, t.leaves / unit, t.replicas / unit, t.attention / unit,
               (t.gathers + t.leaves + t.replicas + t.attention) / unit);
    }
}

// What attention takes on a GPU: an estimate by rates of an H200. A forward is two products,
// cuDNN's backward five, our own seven; model FLOPs count six in all.
static void print_attention(const Plan *plan, const StageFacts *facts) {
    enum { CUDNN_TFLOPS = 400, OWN_TFLOPS = 200, FP32_TFLOPS = 15 };
    const Config *c = &plan->config;
    const Cost cost = model_cost(&plan->model);
    const double again = plan->recompute == RECOMPUTE_BLOCK ? 2 : 0;
    printf(
        "\nattention on H200s, estimated: TFLOPs of a step, s of a rank, by cuDNN (%d TFLOP/s); "
        "by our own\nkernels, which compute two products more: run.deterministic (%s here) in "
        "bf16, "
        "on tensor cores\n(%d, not measured yet); the fp32 build and a head_dim above 128, on the "
        "fp32 pipes (%d)\n"
        "  %-12s %11s %9s %15s %9s %9s\n",
        CUDNN_TFLOPS, c->model.deterministic ? "on" : "off", OWN_TFLOPS, FP32_TFLOPS, "stage",
        "cuDNN", "s", "our own", "s", "fp32 s");
    for (int64_t s = 0; s < c->stage_count; s++) {
        const double rest = facts[s].tokens * (double)cost.token +
                            facts[s].text * (double)cost.text +
                            facts[s].samples * (double)cost.segment;
        const double product = 1e-12 * (facts[s].flops - 3 * rest) / 6;
        const double cudnn = (7 + again) * product, own = (9 + again) * product;
        const double ranks = plan->mesh.size;
        printf("  %-12.12s %11.4g %9.3g %15.4g %9.3g %9.3g\n", c->stages[s].name, cudnn,
               cudnn / ranks / CUDNN_TFLOPS, own, own / ranks / OWN_TFLOPS,
               own / ranks / FP32_TFLOPS);
    }
}

static void print_rows(const Plan *plan) {
    const Config *c = &plan->config;
    printf("\nrows by stage and source\n");
    for (int s = 0; s < c->stage_count; s++) {
        for (int source = 0; source < c->data.source_count; source++) {
            const int64_t *verdicts = planner_verdicts(plan->planner, s, source);
            printf("  %-12.12s %s:", c->stages[s].name, c->data.sources[source].path);
            const char *comma = " ";
            for (int v = 0; v < ROW_VERDICTS; v++) {
                if (verdicts[v] == 0 && v != ROW_PASSES) continue;
                printf("%s%" PRId64 " %s", comma, verdicts[v], row_verdict_names[v]);
                comma = ", ";
            }
            printf("\n");
        }
    }
}

static void print_steps(Plan *plan) {
    const Config *c = &plan->config;
    StageFacts facts[STAGES_MAX];
    plan->flops = plan->options.tflops * 1e12;
    const bool measured = plan->flops == 0;
    if (measured) plan->flops = ceiling_flops(model_width(&c->model));
    printf("\nper step, %s\n", plan->planner != NULL
                                   ? "means over the first steps of each stage as planned"
                                   : "ASSUMED: packs full of the largest sample of each stage");
    printf("  %-12s %8s %6s %6s %7s %9s %11s %9s %11s %9s %8s\n", "stage", "steps", "packs", "fill",
           "balance", "samples", "tokens", "text", "TFLOPs", "s", "hours");
    int64_t first = 0;
    double all = 0;
    for (int s = 0; s < c->stage_count; s++) {
        const StageData *data = &c->stages[s].data;
        facts[s] = plan->planner != NULL ? planned(plan, s, first) : assumed(plan, s);
        const double seconds = step_seconds(plan, &facts[s]);
        printf("  %-12.12s %8" PRId64 " %6.0f %6.3f %7.3f %9.1f %11.1f %9.1f %11.4g %9.3g %8.3g\n",
               c->stages[s].name, data->steps, facts[s].packs, facts[s].fill, facts[s].balance,
               facts[s].samples, facts[s].tokens, facts[s].text, facts[s].flops * 1e-12, seconds,
               seconds * (double)data->steps / 3600);
        all += seconds * (double)data->steps;
        first += data->steps;
    }
    printf(
        "  fill: tokens over what packs hold; balance: mean over largest work of the packs;\n"
        "  FLOPs: forward and backward without recomputation\n");
    printf(
        "estimate: %.3g hours in all, if a step runs at %.2f of %.4g TFLOP/s per rank (%s) and "
        "all exchange is hidden\n",
        all / 3600, plan->options.share, plan->flops * 1e-12,
        measured ? "products, measured here by one process" : "--tflops");
    print_traffic(plan, facts);
    print_attention(plan, facts);
}

static int run(Plan *plan, int argc, char **argv, Problems *problems) {
    Words words;
    if (!options_parse(&plan->options, option_table, argc, argv, &words, problems) ||
        !read_config(plan, &words, problems) || !take_device(&plan->options, problems) ||
        !prepare(plan, problems)) {
        return EXIT_CONFIG;
    }
    const char *missing = missing_data(&plan->config);
    print_model(plan);
    print_memory(plan);
    print_steps(plan);
    if (plan->planner != NULL) print_rows(plan);
    if (missing != NULL) {
        printf(
            "\ndata: %s/index.json is missing, so no packs were planned. data.sources must name "
            "folders of MDS shards (kintoun data import, kintoun data demo)\n",
            missing);
    }
    return EXIT_DONE;
}

int plan_command(int argc, char **argv) {
    if (options_help(argc, argv)) {
        printf("%s", HELP);
        return EXIT_DONE;
    }
    Plan *plan = calloc(1, sizeof(*plan));
    Problems *problems = calloc(1, sizeof(*problems));
    CHECK(plan != NULL && problems != NULL, "no memory");
    const int exit_code = run(plan, argc, argv, problems);
    if (problems->count > 0) problems_print(problems, "the settings");
    planner_free(plan->planner);
    model_free(&plan->model);
    free(plan);
    free(problems);
    return exit_code;
}
