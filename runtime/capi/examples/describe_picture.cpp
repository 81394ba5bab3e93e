// Goes on with a prompt about a picture, event by event, for so many tokens or seconds.
//
//     describe_picture BUNDLE PROMPT PICTURE TOKENS [SECONDS]
//
// PICTURE is a file, or `-` for one that is drawn in memory. The prompt goes to the model as it is, with the model's image
// token where the picture goes. The text goes to standard output, all else to standard error.
#include <lwv.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

// A failure, in the library's words.
void check(lwv_status status) {
    if (status < 0) {
        throw std::runtime_error(lwv_last_error());
    }
}

template <typename Handle, void (*close)(Handle *)>
struct Closer {
    void operator()(Handle *handle) const { close(handle); }
};

template <typename Handle, void (*close)(Handle *)>
using Owned = std::unique_ptr<Handle, Closer<Handle, close>>;

using Engine = Owned<lwv_engine, lwv_engine_close>;
using Session = Owned<lwv_session, lwv_session_close>;
using Generation = Owned<lwv_generation, lwv_generation_close>;
using Image = Owned<lwv_image, lwv_image_close>;
using CancelToken = Owned<lwv_cancel_token, lwv_cancel_token_close>;

// What an `open` function makes, owned.
template <typename Handle, typename Open>
Handle made(Open open) {
    typename Handle::pointer handle = nullptr;
    check(open(&handle));
    return Handle(handle);
}

Engine load(const char *bundle) {
    lwv_engine_options options;
    check(lwv_engine_options_init(&options, sizeof options));
    options.bundle = bundle;
    options.device = "cpu";
    return made<Engine>([&](auto place) { return lwv_engine_open(&options, place); });
}

// From dark to light, and a little red.
Image drawn(std::uint32_t width, std::uint32_t height) {
    std::vector<std::uint8_t> pixels;
    for (std::uint32_t y = 0; y < height; ++y) {
        for (std::uint32_t x = 0; x < width; ++x) {
            const auto level = static_cast<std::uint8_t>(255 * x / width);
            pixels.insert(pixels.end(), {static_cast<std::uint8_t>(level / 2 + 128), level, level});
        }
    }
    return made<Image>(
        [&](auto place) { return lwv_image_from_rgb(pixels.data(), width, height, 0, place); });
}

// Cancels after a time, unless it is destroyed before.
class Alarm {
public:
    Alarm(lwv_cancel_token *token, double seconds)
        : thread_([this, token, seconds] {
              std::unique_lock<std::mutex> lock(mutex_);
              const auto time = std::chrono::duration<double>(seconds);
              if (!wake_.wait_for(lock, time, [this] { return over_; })) {
                  lwv_cancel_token_cancel(token);
              }
          }) {}

    ~Alarm() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            over_ = true;
        }
        wake_.notify_all();
        thread_.join();
    }

private:
    std::mutex mutex_;
    std::condition_variable wake_;
    bool over_ = false;
    std::thread thread_;
};

lwv_finish_reason write(lwv_session *session, std::size_t tokens, const lwv_cancel_token *cancel) {
    lwv_sampler_settings sampler;
    check(lwv_sampler_settings_init(&sampler, sizeof sampler));
    sampler.flags = LWV_GREEDY;
    lwv_generation_settings settings;
    check(lwv_generation_settings_init(&settings, sizeof settings));
    settings.sampler = &sampler;
    settings.max_new_tokens = tokens;
    settings.flags = LWV_IGNORE_EOS;
    settings.cancel = cancel;

    const auto generation = made<Generation>(
        [&](auto place) { return lwv_generation_start(session, &settings, place); });
    lwv_event event;
    event.size = sizeof event;
    auto reason = LWV_FINISH_REASON_OTHER;
    for (;;) {
        const lwv_status status = lwv_generation_next(generation.get(), &event);
        check(status);
        if (status == LWV_STATUS_END) {
            return reason;
        }
        std::cout.write(event.text, static_cast<std::streamsize>(event.text_length));
        std::cout.flush();
        if (event.kind == LWV_EVENT_KIND_IMAGE_ENCODED) {
            std::cerr << "the picture takes " << event.total << " tokens\n";
        }
        if (event.kind == LWV_EVENT_KIND_FINISHED) {
            reason = event.reason;
            std::cerr << "\n" << event.stats->generated_tokens << " tokens, "
                      << event.stats->decode_tokens_per_second << " a second\n";
        }
    }
}

void run(int count, char **arguments) {
    const auto engine = load(arguments[1]);
    const std::string file = arguments[3];
    const auto image = file == "-" ? drawn(64, 48)
                                   : made<Image>([&](auto place) { return lwv_image_open(file.c_str(), place); });
    const lwv_image *const images[] = {image.get()};

    const auto session = made<Session>([&](auto place) { return lwv_session_open(engine.get(), place); });
    check(lwv_session_set_text(session.get(), arguments[2], images, 1));

    const auto cancel = made<CancelToken>([](auto place) { return lwv_cancel_token_open(place); });
    const double seconds = count > 5 ? std::stod(arguments[5]) : 3600.0;
    const Alarm alarm(cancel.get(), seconds);
    const auto reason = write(session.get(), std::stoul(arguments[4]), cancel.get());
    std::cerr << "ended for reason " << static_cast<int>(reason) << "\n";
}

} // namespace

int main(int count, char **arguments) {
    if (count < 5) {
        std::cerr << "usage: " << arguments[0] << " BUNDLE PROMPT PICTURE TOKENS [SECONDS]\n";
        return 2;
    }
    try {
        run(count, arguments);
    } catch (const std::exception &error) {
        std::cerr << "error: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
