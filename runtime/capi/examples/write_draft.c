/*
 * Writes a long text that survives whatever ends the program: it stands in a draft while it is written.
 *
 *     write_draft begin DRAFT BUNDLE INSTRUCTION WORDS [TOKENS [PICTURE]]
 *     write_draft resume DRAFT BUNDLE [TOKENS]
 *     write_draft rewrite DRAFT BUNDLE SECTION [TOKENS]
 *     write_draft extend DRAFT BUNDLE SECTION WORDS [TOKENS]
 *     write_draft show DRAFT
 *     write_draft finish DRAFT
 *
 * Writing stops after TOKENS tokens, as if somebody had cancelled. `show` tells what a draft holds, and `finish` gives its
 * text and removes it; neither needs a bundle. The text goes to standard output, all else to standard error. Sections are
 * counted from 1.
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

static void print(lwv_text *text, FILE *file) {
    size_t length = 0;
    const char *data = lwv_text_data(text, &length);
    fwrite(data, 1, length, file);
    lwv_text_close(text);
}

/* Prints the text as it comes. Nothing is taken back, since the draft has no loop guard. */
static int on_event(const lwv_event *event, void *user_data) {
    unsigned long *tokens_left = (unsigned long *)user_data;
    switch (event->kind) {
    case LWV_EVENT_KIND_TOKEN:
        fwrite(event->text, 1, event->text_length, stdout);
        *tokens_left -= 1;
        break;
    case LWV_EVENT_KIND_TEXT:
    case LWV_EVENT_KIND_FINISHED:
        fwrite(event->text, 1, event->text_length, stdout);
        break;
    case LWV_EVENT_KIND_SECTION_STARTED:
        fprintf(stderr, "section %d: %d words\n", (int)event->index + 1, (int)event->total);
        break;
    default:
        /* Kinds that this program does not know are passed over. */
        break;
    }
    return *tokens_left == 0;
}

/* An engine; one for a draft computes as the draft was begun, so that the text is the same as without an interruption. */
static lwv_engine *open_engine(const char *bundle, const lwv_draft_info *begun) {
    lwv_engine_options options;
    lwv_engine *engine = NULL;

    check(lwv_engine_options_init(&options, sizeof options), "options");
    options.bundle = bundle;
    options.device = "cpu";
    if (begun != NULL) {
        options.device = begun->device;
        options.threads = begun->threads;
        options.prefill_chunk = begun->prefill_chunk;
    }
    check(lwv_engine_open(&options, &engine), "cannot load the bundle");
    return engine;
}

static lwv_draft *begin(const lwv_engine *engine, const char *file, const char *instruction, size_t words,
                        const char *picture) {
    lwv_writer_settings settings;
    lwv_image *image = NULL;
    const lwv_image *images[1];
    lwv_draft *draft = NULL;

    check(lwv_writer_settings_init(&settings, sizeof settings), "settings");
    settings.instruction = instruction;
    settings.words = words;
    settings.sections = 2;
    settings.flags = LWV_DETERMINISTIC;
    if (picture != NULL) {
        check(lwv_image_open(picture, &image), "cannot open the picture");
        images[0] = image;
        settings.images = images;
        settings.image_count = 1;
    }
    check(lwv_draft_create(engine, file, &settings, &draft), "cannot begin the draft");
    lwv_image_close(image);
    return draft;
}

static lwv_draft_info describe(const lwv_draft *draft) {
    lwv_draft_info info;
    info.size = sizeof info;
    check(lwv_draft_describe(draft, &info), "draft");
    return info;
}

static void show(const lwv_draft *draft) {
    lwv_draft_info info = describe(draft);
    size_t index;

    fprintf(stderr, "%s: %d of %d words, %s\n", info.instruction, (int)info.written_words, (int)info.words,
            info.is_whole ? "whole" : "not whole");
    if (info.loss != NULL) {
        fprintf(stderr, "%s\n", info.loss);
    }
    for (index = 0; index < info.sections; index++) {
        lwv_section_info section;
        lwv_text *main_point = NULL;
        section.size = sizeof section;
        check(lwv_draft_section(draft, index, &section, &main_point, NULL), "section");
        fprintf(stderr, "%d. ", (int)index + 1);
        print(main_point, stderr);
        fprintf(stderr, ": %d of %d words, %d variants%s\n", (int)section.written_words, (int)section.words,
                (int)section.variants, section.is_open ? ", open" : "");
    }
}

int main(int count, char **arguments) {
    const char *command = count > 2 ? arguments[1] : "";
    int begins = strcmp(command, "begin") == 0;
    int extends = strcmp(command, "extend") == 0;
    int revises = extends || strcmp(command, "rewrite") == 0;
    int tokens_at = begins || extends ? 6 : revises ? 5 : 4;
    unsigned long tokens_left = count > tokens_at ? strtoul(arguments[tokens_at], NULL, 10) : (unsigned long)-1;
    lwv_finish_reason reason = LWV_FINISH_REASON_OTHER;
    lwv_engine *engine = NULL;
    lwv_draft *draft = NULL;
    lwv_text *text = NULL;

    if (begins && count > 5) {
        engine = open_engine(arguments[3], NULL);
        draft = begin(engine, arguments[2], arguments[4], (size_t)strtoul(arguments[5], NULL, 10),
                      count > 7 ? arguments[7] : NULL);
    } else if (!begins && count > 2) {
        check(lwv_draft_open(arguments[2], &draft), "cannot open the draft");
    }
    if (strcmp(command, "show") == 0 || strcmp(command, "finish") == 0) {
        show(draft);
        check(lwv_draft_text(draft, &text), "text");
        print(text, stdout);
        if (strcmp(command, "finish") == 0) {
            check(lwv_draft_remove(draft), "cannot remove the draft");
        }
        lwv_draft_close(draft);
        return EXIT_SUCCESS;
    }
    if (draft == NULL || count < tokens_at) {
        fprintf(stderr, "usage: see the head of write_draft.c\n");
        return 2;
    }
    if (!begins) {
        lwv_draft_info begun = describe(draft);
        engine = open_engine(arguments[3], &begun);
    }
    if (revises) {
        lwv_revision_settings settings;
        check(lwv_revision_settings_init(&settings, sizeof settings), "settings");
        settings.section = (size_t)strtoul(arguments[4], NULL, 10) - 1;
        settings.extend_by = extends ? (size_t)strtoul(arguments[5], NULL, 10) : 0;
        check(lwv_draft_revise(engine, draft, &settings, on_event, &tokens_left, NULL, &reason), "cannot revise");
    } else {
        check(lwv_draft_write(engine, draft, NULL, on_event, &tokens_left, NULL, &reason), "cannot write");
    }
    fprintf(stderr, "ended for reason %d\n", (int)reason);
    lwv_draft_close(draft);
    lwv_engine_close(engine);
    return EXIT_SUCCESS;
}
