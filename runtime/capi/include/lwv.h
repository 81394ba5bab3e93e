/*
 * lwv: writes long texts from a bundle, offline.
 *
 * Generated from runtime/capi/src; do not change it here.
 *
 * Handles (lwv_engine, lwv_session, lwv_generation, lwv_draft, lwv_image, lwv_cancel_token, lwv_text) are made by functions
 * that take a place for them and freed by the function called _close; NULL can be closed and is refused everywhere else.
 * What a call fails to make is NULL. A handle that needs another keeps it alive: they may be closed in any order.
 *
 * Errors. Functions return a status, and the words for people are kept for lwv_last_error(), a thread at a time. Objects
 * for errors would have to be freed by every caller on every path, and a status fits into an if. The text names the
 * argument, file, graph or setting and says what to do. An argument that is NULL, not UTF-8 or out of its range is
 * LWV_STATUS_ARGUMENT. A pointer to something that was freed, or is of another type, cannot be told and must not be given.
 * Nothing unwinds out of the library, and nothing may unwind into it: callbacks must not throw.
 *
 * Texts are UTF-8 with a zero after them, paths too, on every system. What is given to a function is copied.
 *
 * Structures begin with `size`, their sizeof as the program was compiled; the functions called _init set it and all else to
 * what is usual, and structures that are asked for need it set. So both sides may be of different versions: fields that an
 * older program does not know are as usual; fields that an older library does not know must be zero, or the call is refused;
 * no more than `size` bytes are ever written. Within an LWV_ABI_VERSION fields are only added at the end, and enumerations
 * only get more values: pass over those that you do not know.
 *
 * Threads. Every function can be called from every thread. An engine, an image, a text and a cancel token can be used by
 * several at once; engines compute for one session at a time, token by token. A session, generation or draft is for one
 * thread at a time: a second one is told LWV_STATUS_BUSY and does not wait. A handle must not be closed while a call with
 * it runs. Callbacks come on the thread that called.
 */


#ifndef LWV_H
#define LWV_H

#include <stddef.h>
#include <stdint.h>


// Version of the interface that this header is of. It changes only where programs must be compiled again; functions, events
// and fields that are added do not change it.
#define LWV_ABI_VERSION 1

// Compare every file of the bundle with its hash first.
#define LWV_CHECK_HASHES 1

// Load the bundle even if it and a text of 4,096 tokens need more memory than there is.
#define LWV_IGNORE_MEMORY 2

// Make floats of integer weights when a graph is loaded, where the graph has operators for that: faster for bundles for
// TensorRT on processors, and takes four times the memory or more.
#define LWV_DEQUANTIZE_ONCE 4

// Take the token with the highest score.
#define LWV_GREEDY 1

// Let the repetition penalty look at the prompt too.
#define LWV_PENALIZE_PROMPT 2

// Tokens that end a text cannot be chosen at all.
#define LWV_IGNORE_EOS 1

// Watch for a model that turns in circles: the text goes back to where the circle began (`LWV_EVENT_KIND_REWOUND`), goes on
// another way, and ends after three tries.
#define LWV_LOOP_GUARD 2

// Write the whole text in one piece, without a plan.
#define LWV_AT_ONCE 4

// Make the text the same to the token whatever was computed before. It costs one more prefill of all that is written.
#define LWV_DETERMINISTIC 8

// What a call came to. Negative ones are failures, and `lwv_last_error` has the words. Later versions may have more.
enum lwv_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It did what it says.
    LWV_STATUS_OK = 0,
    // There is nothing more to come: the last event was told before.
    LWV_STATUS_END = 1,
    // An argument or a field is NULL, not UTF-8, misaligned or out of its range.
    LWV_STATUS_ARGUMENT = -1,
    // The handle is at work in another thread, or below on this one, or a generation is open on the session.
    LWV_STATUS_BUSY = -2,
    // ONNX Runtime's shared library is missing, too old, or none.
    LWV_STATUS_LIBRARY = -3,
    // The bundle lacks a file, or a file is not what the manifest says.
    LWV_STATUS_BUNDLE = -4,
    // The chosen device cannot be used.
    LWV_STATUS_PROVIDER = -5,
    // The memory or the cache's budget does not suffice.
    LWV_STATUS_MEMORY = -6,
    // The prompt cannot be made, or is longer than the context.
    LWV_STATUS_PROMPT = -7,
    // A setting has a value that cannot be used.
    LWV_STATUS_SETTING = -8,
    // ONNX Runtime failed while computing.
    LWV_STATUS_INFERENCE = -9,
    // The model's output cannot be used.
    LWV_STATUS_LOGITS = -10,
    // A token was asked for that is not there.
    LWV_STATUS_REWIND = -11,
    // Cancelled before there was anything to keep: while loading or planning.
    LWV_STATUS_CANCELLED = -12,
    // An image cannot be read.
    LWV_STATUS_IMAGE = -13,
    // A fault of the library. Close the handles that took part in the call; others stay usable.
    LWV_STATUS_PANIC = -14,
    // Another failure.
    LWV_STATUS_OTHER = -15,
    // The adapter cannot be read, or is not for the bundle.
    LWV_STATUS_ADAPTER = -16,
    // A draft cannot be read, written or gone on with, or is open elsewhere.
    LWV_STATUS_DRAFT = -17,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lwv_status lwv_status;
#else
typedef int32_t lwv_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What loading is at.
enum lwv_load_stage
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Something that this version of the interface does not name.
    LWV_LOAD_STAGE_OTHER = 0,
    // Files are compared with their hashes; `done` and `total` are bytes.
    LWV_LOAD_STAGE_HASHING = 1,
    // A graph is being loaded; `done` and `total` are graphs.
    LWV_LOAD_STAGE_LOADING = 2,
    // An engine is being built for a graph, which takes minutes and is done once.
    LWV_LOAD_STAGE_BUILDING = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lwv_load_stage lwv_load_stage;
#else
typedef int32_t lwv_load_stage;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What happened. Later versions may have more: pass over those that you do not know.
enum lwv_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Something that this version of the interface does not name.
    LWV_EVENT_KIND_OTHER = 0,
    // Prompt tokens were computed: `done` of `total`; those that were in the cache are not among them.
    LWV_EVENT_KIND_PREFILL = 1,
    // Image `index` of the session was encoded; it takes `total` tokens.
    LWV_EVENT_KIND_IMAGE_ENCODED = 2,
    // Token `token` was chosen. `text` is what is certain with it: whole characters, no part of a stop string, often empty.
    LWV_EVENT_KIND_TOKEN = 3,
    // The end of a generation, told once: `reason`, `stats`, and in `text` what was held back.
    LWV_EVENT_KIND_FINISHED = 4,
    // Line `index` of the plan was made; `text` is what the section will say.
    LWV_EVENT_KIND_PLAN_LINE = 5,
    // Section `index` begins; it is to have `total` words.
    LWV_EVENT_KIND_SECTION_STARTED = 6,
    // Text that is not generated now: headings, empty lines, and what a draft holds.
    LWV_EVENT_KIND_TEXT = 7,
    // Section `index` ended with `total` words, for `reason`.
    LWV_EVENT_KIND_SECTION_FINISHED = 8,
    // The model turned in circles: `total` bytes of the text that was told are taken back, and `done` tokens. Comes only with
    // `LWV_LOOP_GUARD`.
    LWV_EVENT_KIND_REWOUND = 9,
    // The first `total` bytes of the text, of this generation or section, are sure to stay. Comes only with
    // `LWV_LOOP_GUARD`, usually with the sentence after; without it all text stays.
    LWV_EVENT_KIND_SETTLED = 10,
    // The context cannot hold all that was written: section `index` is not shown the first `total` words.
    LWV_EVENT_KIND_TEXT_LEFT_OUT = 11,
    // Section `index` stays short, however often it was written on: it has `done` of `total` words.
    LWV_EVENT_KIND_SHORTFALL = 12,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lwv_event_kind lwv_event_kind;
#else
typedef int32_t lwv_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Why a text ended. Later versions may have more.
enum lwv_finish_reason
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Another reason, which this version of the interface does not name.
    LWV_FINISH_REASON_OTHER = 0,
    // The model ended it.
    LWV_FINISH_REASON_EOS = 1,
    // A stop string came.
    LWV_FINISH_REASON_STOP_STRING = 2,
    // As many tokens as were asked for.
    LWV_FINISH_REASON_MAX_TOKENS = 3,
    // As many words as were asked for.
    LWV_FINISH_REASON_WORD_BUDGET = 4,
    // Somebody cancelled, or a callback wanted no more. What was written so far counts.
    LWV_FINISH_REASON_CANCELLED = 5,
    // The model turned in circles.
    LWV_FINISH_REASON_LOOP_DETECTED = 6,
    // The context is full.
    LWV_FINISH_REASON_CONTEXT_FULL = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lwv_finish_reason lwv_finish_reason;
#else
typedef int32_t lwv_finish_reason;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Stops loading, image encoding, prefill and writing from another thread. What uses it holds it too, so it can be closed
// at any time.
typedef struct lwv_cancel_token lwv_cancel_token;

// A long text on the disk while it is written, so that it survives whatever ends the process. It is a journal in a file, which
// is appended to and synced once a second while text comes; a copy as of the last finished section lies beside it (`.copy`).
// One handle at a time has it, in all processes.
typedef struct lwv_draft lwv_draft;

// A loaded bundle. Sessions of one engine share its weights and keep it loaded until the last of them is closed; its graphs
// compute for one of them at a time.
typedef struct lwv_engine lwv_engine;

// A text that is being written, event by event.
typedef struct lwv_generation lwv_generation;

// A picture in memory.
typedef struct lwv_image lwv_image;

// A text that a model reads and goes on with, and its cache.
typedef struct lwv_session lwv_session;

// A text that the library made.
typedef struct lwv_text lwv_text;

// Something that graphs run on. Set `size` before it is asked for.
typedef struct lwv_device {
    // Bytes of this structure.
    size_t size;
    // Its name for `lwv_engine_options`, such as `cpu` or `cuda:1`.
    char name[32];
    // What it is, for people; cut where it is long.
    char description[128];
    // Bytes of memory: of a card all, of the processor what can be had now. 0 where it is not known.
    uint64_t memory;
} lwv_device;

// What loading is at. All pointers are for the time of the call.
typedef struct lwv_progress {
    // Bytes of this structure.
    size_t size;
    // What it is at.
    lwv_load_stage stage;
    // How much of it is done.
    uint64_t done;
    // How much there is; 0 where it is not known.
    uint64_t total;
    // The graph's name, or NULL.
    const char *graph;
} lwv_progress;

// Is told what loading is at, on the thread that opens the engine. Anything but 0 cancels.
typedef int (*lwv_progress_callback)(const struct lwv_progress *progress, void *user_data);

// How a bundle is loaded. Set it by `lwv_engine_options_init` first.
typedef struct lwv_engine_options {
    // Bytes of this structure.
    size_t size;
    // The bundle's folder. Must be set.
    const char *bundle;
    // `auto`, `cpu`, `cuda`, `cuda:1`, `tensorrt` or `tensorrt-rtx`; NULL is `auto`. One that is named runs or fails.
    const char *device;
    // ONNX Runtime's shared library or its folder. NULL: looked for in `LWV_ONNXRUNTIME` and `ORT_DYLIB_PATH`, beside the
    // program, and in the system's folders. The first that a process loads is the only one.
    const char *onnxruntime;
    // Where engines are kept that TensorRT builds; NULL is the usual folder.
    const char *engines;
    // Most bytes of cache for a session; 0 is as usual.
    uint64_t kv_budget;
    // Most tokens in one run of prefill; 0 is as usual.
    size_t prefill_chunk;
    // Threads to compute with; 0 is as many as there are cores.
    size_t threads;
    // Any of `LWV_CHECK_HASHES`, `LWV_IGNORE_MEMORY` and `LWV_DEQUANTIZE_ONCE`.
    uint64_t flags;
    // Cancels loading; may be NULL.
    const struct lwv_cancel_token *cancel;
    // Is told what loading is at; may be NULL.
    lwv_progress_callback progress;
    // What the callback is given.
    void *user_data;
    // File of the adapter to write with, as `lwv-export adapter` makes it; NULL for none. `lwv_engine_with_adapter` changes
    // it without loading again.
    const char *adapter;
} lwv_engine_options;

// What an engine is. Set `size` before it is asked for. The texts belong to the engine.
typedef struct lwv_engine_info {
    // Bytes of this structure.
    size_t size;
    // Where the graphs run; never `auto`.
    const char *device;
    // The execution provider, as ONNX Runtime names it.
    const char *provider;
    // Longest text in tokens.
    size_t context_length;
    // Threads that compute.
    size_t threads;
    // 1 if the model reads pictures, else 0.
    uint64_t reads_images;
    // By what texts are told apart that several engines write: bundle and adapter. `engine` of a `lwv_draft_info` is one.
    const char *id;
} lwv_engine_info;

// What a text will take, in bytes. Set `size` before it is asked for.
typedef struct lwv_memory_estimate {
    // Bytes of this structure.
    size_t size;
    // The graphs and their weights.
    uint64_t weights;
    // The cache.
    uint64_t kv;
    // Inputs and outputs; what the operators need inside a run comes on top.
    uint64_t buffers;
    // The sum.
    uint64_t total;
    // What is read to write one more token.
    uint64_t read_for_a_token;
} lwv_memory_estimate;

// How tokens are chosen. Every step is switched off by a value that changes nothing. Set it by
// `lwv_sampler_settings_init` first.
typedef struct lwv_sampler_settings {
    // Bytes of this structure.
    size_t size;
    // Seed of the draws.
    uint64_t seed;
    // Any of `LWV_GREEDY` and `LWV_PENALIZE_PROMPT`.
    uint64_t flags;
    // Scores are divided by this; 0 is the greedy choice.
    float temperature;
    // Keep the fewest tokens whose probabilities add up to this; 1 keeps all.
    float top_p;
    // Keep tokens that have at least this part of the best token's probability; 0 keeps all.
    float min_p;
    // Keep those tokens whose information is nearest to the entropy until their probabilities add up to this; 1 keeps all.
    float typical_p;
    // How often the most probable tokens are left out in favour of the last one above `xtc_threshold`; 0 is never.
    float xtc_probability;
    // Probability that tokens must have to be left out.
    float xtc_threshold;
    // Positive scores of tokens that were there already are divided by this, negative ones multiplied; 1 changes nothing.
    float repetition_penalty;
    // Subtracted from the scores of tokens that were there already; 0 changes nothing.
    float presence_penalty;
    // Subtracted from a token's score as many times as it was there already; 0 changes nothing.
    float frequency_penalty;
    // Penalty of a token that would go on with a repetition of `dry_allowed_length` tokens; 0 switches DRY off.
    float dry_multiplier;
    // The penalty grows by this factor with every token that the repetition is longer.
    float dry_base;
    // Nothing; 0.
    uint32_t reserved;
    // Keep so many of the highest scores; 0 keeps all.
    size_t top_k;
    // How many of the last tokens the three penalties look at.
    size_t penalty_window;
    // Longest repetition that may be gone on with unpunished, less one token.
    size_t dry_allowed_length;
    // How many of the last tokens DRY looks at; 0 is all.
    size_t dry_range;
    // Texts that a repetition does not reach across; NULL is as usual.
    const char *const *dry_sequence_breakers;
    // How many they are.
    size_t dry_breaker_count;
    // Never write so many tokens in the same order twice, but in code, tables and quotations; 0 allows it.
    size_t no_repeat_ngram_size;
    // Tokens to whose scores something is added.
    const uint32_t *biased_tokens;
    // What is added to each of them; minus infinity bans the token.
    const float *biases;
    // How many they are.
    size_t bias_count;
} lwv_sampler_settings;

// One turn of a conversation: its pictures, then what is said. This structure never changes, since it stands in arrays.
typedef struct lwv_message {
    // `system`, `user` or `assistant`; other roles where the chat template knows them.
    const char *role;
    // What is said.
    const char *text;
    // Its pictures.
    const struct lwv_image *const *images;
    // How many they are.
    size_t image_count;
} lwv_message;

// How large a session is. Set `size` before it is asked for.
typedef struct lwv_session_info {
    // Bytes of this structure.
    size_t size;
    // Tokens of the text, generated ones included.
    size_t tokens;
    // Of these, the tokens that are in the cache.
    size_t cached_tokens;
    // Most tokens that the text may have.
    size_t context_length;
    // Bytes that the cache takes.
    uint64_t kv_bytes;
} lwv_session_info;

// What a generation is to do. Set it by `lwv_generation_settings_init` first.
typedef struct lwv_generation_settings {
    // Bytes of this structure.
    size_t size;
    // How tokens are chosen; NULL is as usual.
    const struct lwv_sampler_settings *sampler;
    // Most tokens to generate.
    size_t max_new_tokens;
    // Tokens that end a text cannot be chosen before this many tokens were.
    size_t min_new_tokens;
    // Tokens that end a text cannot be chosen before this many words were written.
    size_t min_words;
    // Texts that end the generation. They are not part of the text.
    const char *const *stop;
    // How many they are.
    size_t stop_count;
    // Any of `LWV_IGNORE_EOS` and `LWV_LOOP_GUARD`.
    uint64_t flags;
    // How many of the last tokens of the prompt are text that was written before: for penalties and the loop guard they
    // count as generated.
    size_t written_tokens;
    // Cancels from another thread; may be NULL.
    const struct lwv_cancel_token *cancel;
    // Most tokens that are guessed at once by what came after the same tokens before, and verified in one step; 0 to guess
    // none. The text is the same but for the last bits of sums.
    size_t lookup_tokens;
} lwv_generation_settings;

// What a generation cost.
typedef struct lwv_stats {
    // Bytes of this structure.
    size_t size;
    // Tokens before the first generated one, cached ones included.
    size_t prompt_tokens;
    // Of these, the tokens that were computed now.
    size_t prefilled_tokens;
    // Tokens that were chosen.
    size_t generated_tokens;
    // Times that the loop guard took text back.
    size_t loop_interventions;
    // Computed prompt tokens per second of prefill; 0 where there were none.
    double prefill_tokens_per_second;
    // Tokens per second after the first; 0 where there were none.
    double decode_tokens_per_second;
    // Seconds spent on encoding images.
    double image_seconds;
    // Seconds from the start to the first token; 0 where there was none.
    double time_to_first_token;
    // Bytes of the cache.
    uint64_t kv_bytes;
    // Most memory that the process ever had, in bytes; 0 where the system does not say.
    uint64_t peak_rss_bytes;
    // The execution provider, as ONNX Runtime names it.
    const char *provider;
    // Tokens that were computed because the text might have gone on with them.
    size_t guessed_tokens;
    // Of these, the tokens that it went on with.
    size_t accepted_tokens;
} lwv_stats;

// Something that happened. All texts of the kinds token, finished and text, put together, are the text, less what is taken
// back. Pointers are good until the next event of the same generation or writing.
typedef struct lwv_event {
    // Bytes of this structure.
    size_t size;
    // What happened; it says which fields have a meaning.
    lwv_event_kind kind;
    // Why it ended.
    lwv_finish_reason reason;
    // Which image, line or section, from 0.
    size_t index;
    // How much is done.
    size_t done;
    // How much it is in all.
    size_t total;
    // The token's id.
    uint64_t token;
    // UTF-8 with a zero after it; never NULL.
    const char *text;
    // Its bytes without that zero: a model can write zeros of its own.
    size_t text_length;
    // What it cost; NULL but at the end of a generation.
    const struct lwv_stats *stats;
} lwv_event;

// Is told what happens, on the thread that called. Anything but 0 stops: the callback is not called again, and what was
// written counts. It must not throw or jump out. What it calls with the same session, generation or
// draft is `LWV_STATUS_BUSY`.
typedef int (*lwv_event_callback)(const struct lwv_event *event, void *user_data);

// What is to be written, and how. Set it by `lwv_writer_settings_init` first.
typedef struct lwv_writer_settings {
    // Bytes of this structure.
    size_t size;
    // What the reader asks for. Must be set.
    const char *instruction;
    // What the model is told before all else; NULL is nothing.
    const char *system;
    // Pictures that go with the instruction.
    const struct lwv_image *const *images;
    // How many they are.
    size_t image_count;
    // Words of the whole. Must be set, unless `plan` is.
    size_t words;
    // Sections of the plan that is made; 0 is as many as are usual.
    size_t sections;
    // The plan, as `lwv_plan` gives it, perhaps changed: a line `Paragraph 1 - Main Point: … - Word Count: 300 words` for
    // every section. NULL: the model makes one.
    const char *plan;
    // How tokens are chosen; NULL is as usual.
    const struct lwv_sampler_settings *sampler;
    // Most tokens of a section, whatever its words.
    size_t max_section_tokens;
    // Texts that end a section.
    const char *const *stop;
    // How many they are.
    size_t stop_count;
    // Any of `LWV_AT_ONCE`, `LWV_DETERMINISTIC` and `LWV_LOOP_GUARD`, which is set as usual.
    uint64_t flags;
    // Cancels from another thread; may be NULL.
    const struct lwv_cancel_token *cancel;
    // Most tokens that are guessed at once, as in `lwv_generation_settings`.
    size_t lookup_tokens;
} lwv_writer_settings;

// What a draft is of and how far it came. Set `size` before it is asked for. The texts belong to the draft.
typedef struct lwv_draft_info {
    // Bytes of this structure.
    size_t size;
    // What the reader asks for.
    const char *instruction;
    // What the model is told before all else, or NULL.
    const char *system;
    // `id` of the engine that it was begun with, as in `lwv_engine_info`. No other one goes on with it.
    const char *engine;
    // The device that it was begun on, for `lwv_engine_options`. A deterministic text is the same only where device, threads
    // and chunk of prefill are; another chunk is refused.
    const char *device;
    // The threads that it was begun with.
    size_t threads;
    // The chunk of prefill that it was begun with.
    size_t prefill_chunk;
    // By which of `LWV_DETERMINISTIC` and `LWV_LOOP_GUARD` it is written.
    uint64_t flags;
    // Words that the whole text is to have.
    size_t words;
    // Words that are there, those of an unfinished section too.
    size_t written_words;
    // Sections of the plan; 0 until there is one.
    size_t sections;
    // Sections that are finished.
    size_t finished_sections;
    // 1 if nothing is left to be written, else 0.
    uint64_t is_whole;
    // What was lost when the draft was opened, in words for people; NULL if nothing was.
    const char *loss;
} lwv_draft_info;

// A section of a draft. Set `size` before it is asked for.
typedef struct lwv_section_info {
    // Bytes of this structure.
    size_t size;
    // Why it ended; `LWV_FINISH_REASON_CANCELLED` if it is not finished, `LWV_FINISH_REASON_OTHER` if it was not begun.
    lwv_finish_reason reason;
    // Words that it is to have by the plan.
    size_t words;
    // Words that it has.
    size_t written_words;
    // 1 if it was begun, rewritten or extended and that is not finished; else 0. Only one section of a draft can be so.
    uint64_t is_open;
    // How often it was rewritten or extended; what it was before is kept, see `lwv_draft_variant`.
    size_t variants;
} lwv_section_info;

// What is done to a section that is there. Set it by `lwv_revision_settings_init` first.
typedef struct lwv_revision_settings {
    // Bytes of this structure.
    size_t size;
    // Which section, from 0.
    size_t section;
    // Words that are added to it; 0 writes it anew.
    size_t extend_by;
    // How tokens are chosen. NULL: as for the rest of the draft, and a section that is written anew takes another seed each
    // time, so that another text comes of it.
    const struct lwv_sampler_settings *sampler;
    // Cancels from another thread; may be NULL.
    const struct lwv_cancel_token *cancel;
} lwv_revision_settings;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The `LWV_ABI_VERSION` of the library. A program should compare it with that of its header.
uint32_t lwv_abi_version(void);

// The library's version, such as `0.1.0`. Never NULL.
const char *lwv_version(void);

// The text of this thread's last call that failed, as UTF-8; empty if none did. Never NULL. It stays where it is until
// the next call that fails on this thread. Calls that succeed leave it.
const char *lwv_last_error(void);

// The text as UTF-8 with a zero after it, until it is closed; NULL if `text` is. `length`, unless NULL, gets its bytes
// without that zero: a model can write zeros of its own.
const char *lwv_text_data(const struct lwv_text *text, size_t *length);

// Frees a text. NULL is allowed.
void lwv_text_close(struct lwv_text *text);

// Makes a token that nobody has cancelled.
lwv_status lwv_cancel_token_open(struct lwv_cancel_token **token);

// Cancels, for good: what runs under the token ends within a fraction of a second, what is begun with it ends at once. From
// any thread, at any time, more than once; not from a signal handler, since it takes a lock.
lwv_status lwv_cancel_token_cancel(struct lwv_cancel_token *token);

// 1 if the token was cancelled, else 0.
int32_t lwv_cancel_token_is_cancelled(const struct lwv_cancel_token *token);

// Frees a token. NULL is allowed.
void lwv_cancel_token_close(struct lwv_cancel_token *token);

// Reads a JPEG, PNG or WebP file, turned as its metadata says.
lwv_status lwv_image_open(const char *file, struct lwv_image **image);

// Copies a picture from memory: `height` rows of `width` pixels, of which each is a byte of red, green and blue. Rows begin
// `stride` bytes apart; 0 means that nothing is between them.
lwv_status lwv_image_from_rgb(const uint8_t *pixels,
                              uint32_t width,
                              uint32_t height,
                              size_t stride,
                              struct lwv_image **image);

// Width and height in pixels; each place may be NULL.
lwv_status lwv_image_size(const struct lwv_image *image, uint32_t *width, uint32_t *height);

// Frees a picture. NULL is allowed.
void lwv_image_close(struct lwv_image *image);

// How many devices there are: the processor, and the cards whose driver answers.
size_t lwv_device_count(void);

// Tells about device `index`, from 0, which is the processor.
lwv_status lwv_device_at(size_t index, struct lwv_device *device);

// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
lwv_status lwv_engine_options_init(struct lwv_engine_options *options, size_t size);

// Loads a bundle. To put another bundle in an engine's place within the memory of the larger of the two, close the engine
// and all its sessions first.
lwv_status lwv_engine_open(const struct lwv_engine_options *options,
                           struct lwv_engine **engine);

// Makes another handle of an engine, whose sessions write with the adapter in the file `adapter`, as `lwv-export adapter` makes
// it; NULL is without one. The graphs are in memory once, and are freed when all handles and sessions are closed; sessions that
// are there already keep what they write with.
lwv_status lwv_engine_with_adapter(const struct lwv_engine *engine,
                                   const char *adapter,
                                   struct lwv_engine **adapted);

// Tells what an engine is.
lwv_status lwv_engine_describe(const struct lwv_engine *engine, struct lwv_engine_info *info);

// Frees an engine; its memory goes with the last of its sessions and other handles. NULL is allowed.
void lwv_engine_close(struct lwv_engine *engine);

// What a text of `tokens` tokens, prompt included, will take with the bundle in the folder `bundle`. Needs no ONNX Runtime
// and loads no weights.
lwv_status lwv_bundle_estimate(const char *bundle,
                               size_t tokens,
                               struct lwv_memory_estimate *estimate);

// What a text of `tokens` tokens, prompt included, will take on this engine.
lwv_status lwv_engine_estimate(const struct lwv_engine *engine, size_t tokens, struct lwv_memory_estimate *estimate);

// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
lwv_status lwv_sampler_settings_init(struct lwv_sampler_settings *settings, size_t size);

// Makes a new, empty text.
lwv_status lwv_session_open(const struct lwv_engine *engine, struct lwv_session **session);

// Puts a conversation in the place of the whole text, up to where the assistant begins to speak, in the form of the bundle's
// chat template. What it begins with in common with the text that was there, pictures included, is not computed again.
lwv_status lwv_session_set_messages(struct lwv_session *session,
                                    const struct lwv_message *messages,
                                    size_t count);

// The same with a text as it is, without the chat template, with what the tokenizer puts around a text. The image token
// stands where a picture goes.
lwv_status lwv_session_set_text(struct lwv_session *session,
                                const char *text,
                                const struct lwv_image *const *images,
                                size_t image_count);

// Appends a text as it is, such as another turn; the tokenizer puts nothing around it.
lwv_status lwv_session_add_text(struct lwv_session *session,
                                const char *text,
                                const struct lwv_image *const *images,
                                size_t image_count);

// Goes back to the first `tokens` tokens.
lwv_status lwv_session_rewind(struct lwv_session *session, size_t tokens);

// Copies the first `capacity` tokens of the text to `tokens`, which may be NULL if `capacity` is 0. `count`, unless NULL,
// gets the number of all.
lwv_status lwv_session_tokens(const struct lwv_session *session,
                              uint32_t *tokens,
                              size_t capacity,
                              size_t *count);

// Tells how large a session is.
lwv_status lwv_session_describe(const struct lwv_session *session, struct lwv_session_info *info);

// Frees a session; a generation that is open on it goes on. NULL is allowed.
void lwv_session_close(struct lwv_session *session);

// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
lwv_status lwv_generation_settings_init(struct lwv_generation_settings *settings, size_t size);

// Computes what was put into the session and writes on, telling `callback` (may be NULL) what happens. `reason`, unless
// NULL, gets why it ended; after a callback that wanted no more that is `LWV_FINISH_REASON_CANCELLED`. What was written
// stays in the session.
lwv_status lwv_generate(struct lwv_session *session,
                        const struct lwv_generation_settings *settings,
                        lwv_event_callback callback,
                        void *user_data,
                        lwv_finish_reason *reason);

// The same, for who rather asks for events one by one: begins, and computes nothing yet. The session is the generation's
// until that is closed.
lwv_status lwv_generation_start(struct lwv_session *session,
                                const struct lwv_generation_settings *settings,
                                struct lwv_generation **generation);

// Computes until something happens and tells it; set `size` of the event before. `LWV_STATUS_END` after the last event, and
// after an error.
lwv_status lwv_generation_next(struct lwv_generation *generation,
                               struct lwv_event *event);

// Ends a generation, whether it is at its end or not. The session can be used again and has what was written. NULL is
// allowed.
void lwv_generation_close(struct lwv_generation *generation);

// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
lwv_status lwv_writer_settings_init(struct lwv_writer_settings *settings, size_t size);

// Makes the plan of a text and writes nothing. `plan` gets its lines, to be shown, changed and given to `lwv_write`.
lwv_status lwv_plan(const struct lwv_engine *engine,
                    const struct lwv_writer_settings *settings,
                    lwv_event_callback callback,
                    void *user_data,
                    struct lwv_text **plan);

// Plans a long text, unless a plan is given, and writes it section by section, telling `callback` (may be NULL) what
// happens. `text` and `reason`, unless NULL, get what was written and why it ended. A text that was cancelled, by the token
// or by the callback, is a success with what was written until then; only where planning was cancelled is it
// `LWV_STATUS_CANCELLED`. A callback that stops cancels the token that was given, too.
lwv_status lwv_write(const struct lwv_engine *engine,
                     const struct lwv_writer_settings *settings,
                     lwv_event_callback callback,
                     void *user_data,
                     struct lwv_text **text,
                     lwv_finish_reason *reason);

// Begins a draft in `file` of what `settings` say, and writes nothing of it yet; `lwv_draft_write` does. `cancel` has no
// meaning here. Pictures must come from files (`lwv_image_open`): their paths and hashes are kept, and they are read again
// when the draft is written. A draft without plan and text that is there is replaced; `LWV_STATUS_DRAFT` where one with
// text or another file is.
lwv_status lwv_draft_create(const struct lwv_engine *engine,
                            const char *file,
                            const struct lwv_writer_settings *settings,
                            struct lwv_draft **draft);

// Opens the draft in `file`, to look at it or to go on with it. What is damaged at its end is cut off, see `loss` in
// `lwv_draft_info`. `LWV_STATUS_DRAFT` where there is none or another handle has it. Needs no engine and no ONNX Runtime.
lwv_status lwv_draft_open(const char *file,
                          struct lwv_draft **draft);

// Tells what a draft is of and how far it came.
lwv_status lwv_draft_describe(const struct lwv_draft *draft, struct lwv_draft_info *info);

// Gives the text as far as it came, headings included. A section that is being rewritten or extended is what it was.
lwv_status lwv_draft_text(const struct lwv_draft *draft, struct lwv_text **text);

// Removes a draft's files, when the text is where it belongs: the library never does so by itself. The handle is good for
// nothing but being closed then.
lwv_status lwv_draft_remove(struct lwv_draft *draft);

// Frees a draft and lets go of its file, which stays. NULL is allowed.
void lwv_draft_close(struct lwv_draft *draft);

// Tells about section `index` of a draft's plan, from 0. `main_point` and `text`, unless NULL, get what the plan says of it
// and its text as far as it came.
lwv_status lwv_draft_section(const struct lwv_draft *draft,
                             size_t index,
                             struct lwv_section_info *info,
                             struct lwv_text **main_point,
                             struct lwv_text **text);

// Gives the text of section `index` as it was before it was rewritten or extended; `variant` is which, from 0, the oldest.
lwv_status lwv_draft_variant(const struct lwv_draft *draft,
                             size_t index,
                             size_t variant,
                             struct lwv_text **text);

// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
lwv_status lwv_revision_settings_init(struct lwv_revision_settings *settings, size_t size);

// Writes a draft to the end of its text, from wherever it is, telling `callback` (may be NULL) what happens, and keeps what
// comes in its file. What the draft holds is told again first, so that events together are the whole text; all else, `text`
// and `reason` too, is as in `lwv_write`. `cancel` may be NULL. Where a revision was interrupted, that is finished and nothing
// else is done: events are those of its section alone. `LWV_STATUS_DRAFT` where another engine has begun the draft, or a
// picture's file was changed.
lwv_status lwv_draft_write(const struct lwv_engine *engine,
                           struct lwv_draft *draft,
                           const struct lwv_cancel_token *cancel,
                           lwv_event_callback callback,
                           void *user_data,
                           struct lwv_text **text,
                           lwv_finish_reason *reason);

// Writes a section of a draft anew or extends it, as `settings` say. What it was stays in the draft, see
// `lwv_draft_variant`. Events are those of the section alone; `text` and `reason`, unless NULL, get the whole text and why
// the section ended. Where that was cancelled, the section is what it was until `lwv_draft_write` has finished it.
lwv_status lwv_draft_revise(const struct lwv_engine *engine,
                            struct lwv_draft *draft,
                            const struct lwv_revision_settings *settings,
                            lwv_event_callback callback,
                            void *user_data,
                            struct lwv_text **text,
                            lwv_finish_reason *reason);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LWV_H */
