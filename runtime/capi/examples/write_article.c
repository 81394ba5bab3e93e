/*
 * Writes a text from a bundle: a long one by a plan, or an answer as long as the model makes it.
 *
 *     write_article BUNDLE INSTRUCTION [WORDS [ADAPTER]]
 *
 * 0 words are an answer. ADAPTER is the file of a LoRA to write with.
 * The text goes to standard output while it is written, all else to standard error.
 */
#include <lwv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Says what failed and ends the program. */
static void check(lwv_status status, const char *what) {
    if (status < 0) {
        fprintf(stderr, "error: %s: %s\n", what, lwv_last_error());
        exit(EXIT_FAILURE);
    }
}

static int on_progress(const lwv_progress *progress, void *user_data) {
    (void)user_data;
    if (progress->stage == LWV_LOAD_STAGE_LOADING) {
        fprintf(stderr, "loading %s (%d of %d)\n", progress->graph, (int)progress->done + 1, (int)progress->total);
    }
    return 0;
}

/* Text that is written out as soon as it is sure to stay. */
struct output {
    FILE *file;
    /* Whether text may be taken back. */
    int waits;
    /* Text that is held. */
    char *held;
    size_t length;
    /* Bytes of the generation's text that were written out. */
    size_t written;
};

static void hold(struct output *output, const char *text, size_t length) {
    char *held = (char *)realloc(output->held, output->length + length + 1);
    if (held == NULL) {
        fputs("no memory for the text\n", stderr);
        exit(EXIT_FAILURE);
    }
    memcpy(held + output->length, text, length);
    output->held = held;
    output->length += length;
}

static void write_out(struct output *output, size_t length) {
    fwrite(output->held, 1, length, output->file);
    fflush(output->file);
    memmove(output->held, output->held + length, output->length - length);
    output->length -= length;
    output->written += length;
}

/* Keeps the text, and tells what happens on the way. */
static int on_event(const lwv_event *event, void *user_data) {
    struct output *output = (struct output *)user_data;
    hold(output, event->text, event->kind == LWV_EVENT_KIND_PLAN_LINE ? 0 : event->text_length);
    switch (event->kind) {
    case LWV_EVENT_KIND_PLAN_LINE:
        fprintf(stderr, "%d. %s\n", (int)event->index + 1, event->text);
        break;
    case LWV_EVENT_KIND_SECTION_STARTED:
        fprintf(stderr, "section %d: %d words\n", (int)event->index + 1, (int)event->total);
        break;
    case LWV_EVENT_KIND_TOKEN:
        if (!output->waits) {
            write_out(output, output->length);
        }
        break;
    case LWV_EVENT_KIND_REWOUND:
        output->length -= event->total;
        break;
    case LWV_EVENT_KIND_SETTLED:
        write_out(output, event->total - output->written);
        break;
    case LWV_EVENT_KIND_TEXT:
    case LWV_EVENT_KIND_FINISHED:
        /* All of it stays, and the next generation begins. */
        write_out(output, output->length);
        output->written = 0;
        break;
    default:
        /* Kinds that this program does not know are passed over. */
        break;
    }
    /* Nobody reads any more: stop. */
    return ferror(output->file);
}

static lwv_engine *open_engine(const char *bundle) {
    lwv_engine_options options;
    lwv_engine_info info;
    lwv_memory_estimate estimate;
    lwv_engine *engine = NULL;

    check(lwv_engine_options_init(&options, sizeof options), "options");
    options.bundle = bundle;
    options.device = "cpu";
    options.progress = on_progress;
    check(lwv_engine_open(&options, &engine), "cannot load the bundle");

    info.size = sizeof info;
    check(lwv_engine_describe(engine, &info), "engine");
    estimate.size = sizeof estimate;
    check(lwv_engine_estimate(engine, info.context_length, &estimate), "estimate");
    fprintf(stderr, "computing on %s; a text of %d tokens takes %.1f MB\n", info.device, (int)info.context_length,
            (double)estimate.total / 1e6);
    return engine;
}

/* A long text: a plan first, then section by section. */
static lwv_finish_reason write_article(const lwv_engine *engine, const lwv_sampler_settings *sampler,
                                       const char *instruction, size_t words) {
    lwv_writer_settings settings;
    struct output output = {NULL, 0, NULL, 0, 0};
    lwv_finish_reason reason = LWV_FINISH_REASON_OTHER;

    check(lwv_writer_settings_init(&settings, sizeof settings), "settings");
    settings.instruction = instruction;
    settings.words = words;
    settings.sampler = sampler;
    output.file = stdout;
    output.waits = (settings.flags & LWV_LOOP_GUARD) != 0;
    check(lwv_write(engine, &settings, on_event, &output, NULL, &reason), "cannot write");
    free(output.held);
    return reason;
}

/* An answer. */
static lwv_finish_reason answer(const lwv_engine *engine, const lwv_sampler_settings *sampler,
                                const char *instruction) {
    lwv_message messages[1] = {{"user", NULL, NULL, 0}};
    lwv_generation_settings settings;
    struct output output = {NULL, 0, NULL, 0, 0};
    lwv_finish_reason reason = LWV_FINISH_REASON_OTHER;
    lwv_session *session = NULL;

    messages[0].text = instruction;
    check(lwv_session_open(engine, &session), "session");
    check(lwv_session_set_messages(session, messages, 1), "prompt");
    check(lwv_generation_settings_init(&settings, sizeof settings), "settings");
    settings.sampler = sampler;
    settings.max_new_tokens = 64;
    output.file = stdout;
    output.waits = (settings.flags & LWV_LOOP_GUARD) != 0;
    check(lwv_generate(session, &settings, on_event, &output, &reason), "cannot write");
    free(output.held);
    lwv_session_close(session);
    return reason;
}

int main(int count, char **arguments) {
    lwv_sampler_settings sampler;
    lwv_finish_reason reason;
    lwv_engine *engine;
    size_t words = count > 3 ? (size_t)strtoul(arguments[3], NULL, 10) : 0;

    if (count < 3) {
        fprintf(stderr, "usage: %s BUNDLE INSTRUCTION [WORDS [ADAPTER]]\n", arguments[0]);
        return 2;
    }
    if (lwv_abi_version() != LWV_ABI_VERSION) {
        fprintf(stderr, "liblwv is of another version (%s)\n", lwv_version());
        return EXIT_FAILURE;
    }
    check(lwv_sampler_settings_init(&sampler, sizeof sampler), "sampler");
    sampler.flags = LWV_GREEDY;

    engine = open_engine(arguments[1]);
    if (count > 4) {
        /* Another handle of the same graphs. This program needs no other; one that does keeps both. */
        lwv_engine *adapted = NULL;
        check(lwv_engine_with_adapter(engine, arguments[4], &adapted), "cannot use the adapter");
        lwv_engine_close(engine);
        engine = adapted;
    }
    if (words > 0) {
        reason = write_article(engine, &sampler, arguments[2], words);
    } else {
        reason = answer(engine, &sampler, arguments[2]);
    }
    fprintf(stderr, "\nended for reason %d\n", (int)reason);
    lwv_engine_close(engine);
    return EXIT_SUCCESS;
}
