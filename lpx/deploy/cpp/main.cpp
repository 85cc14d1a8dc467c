// Scores face crops with a TensorRT engine: raw pixels in, one line of JSON per face out.
//
//   detector [OPTIONS] [FILE]        scores the faces in FILE, or on standard input
//   detector [OPTIONS] --self-test   scores face.rgb, and compares it with expected.json
//
//   --model DIR         folder of engine.plan and card.json (default: the current one)
//   --map               also print the map of local scores, row by row
//   --batch N           score at most N faces at once (default: the engine's largest batch)
//   --allow-host-code   load a version-compatible plan: it contains code that runs on the CPU
//   --dla CORE          DLA core of a plan that was built for one
//
// A face is input_size x input_size x 3 bytes: RGB, row by row, not normalised. Faces follow one
// another without a header. Exit codes: 0 done, 1 the self-test failed, 2 it could not run.

#include "detector.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

namespace {

using lpx::Detector;
using lpx::fail;

struct FileCloser {
    void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

File open_file(const std::string& path) {
    File file(std::fopen(path.c_str(), "rb"));
    if (!file) fail(path + " cannot be read: " + std::strerror(errno));
    return file;
}

std::string read_file(const std::string& path) {
    const File file = open_file(path);
    std::string content;
    char piece[1 << 16];
    while (const std::size_t count = std::fread(piece, 1, sizeof piece, file.get()))
        content.append(piece, count);
    if (std::ferror(file.get())) fail(path + " cannot be read: " + std::strerror(errno));
    return content;
}

// Returns a number of the outermost JSON object; keys of objects inside it do not count.
double json_number(const std::string& path, const std::string& key) {
    const std::string text = read_file(path);
    int depth = 0;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '{' || text[at] == '[') ++depth;
        if (text[at] == '}' || text[at] == ']') --depth;
        if (text[at] != '"') continue;
        const std::size_t start = ++at;
        while (at < text.size() && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
        const std::size_t colon = text.find_first_not_of(" \t\r\n", at + 1);
        if (depth != 1 || colon == std::string::npos || text[colon] != ':') continue;
        if (text.compare(start, at - start, key) != 0) continue;
        const char* number = text.c_str() + colon + 1;
        char* end = nullptr;
        const double value = std::strtod(number, &end);
        if (end == number || !std::isfinite(value)) break;
        return value;
    }
    fail(path + " has no number \"" + key + "\": it was damaged, or not written by lpx");
}

struct Options {
    std::string model = ".", input;
    bool map = false, self_test = false;
    int batch = 0;
    lpx::Settings settings;
};

// Reads up to `limit` faces. Returns the number of bytes: a pipe may end within a face.
std::size_t read_faces(std::FILE* input, Detector& detector, int32_t limit) {
    const std::size_t most = limit * detector.face_bytes();
    const std::size_t bytes = std::fread(detector.faces.data(), 1, most, input);
    if (std::ferror(input)) fail(std::string("the input cannot be read: ") + std::strerror(errno));
    return bytes;
}

// JSON has no NaN, and a comparison with one would call every face real.
float finite(float value, std::size_t face) {
    if (!std::isfinite(value))
        fail("face " + std::to_string(face) + " has a score or map that is not finite");
    return value;
}

void print_face(const Detector& detector, int32_t row, std::size_t face, float threshold,
                bool map) {
    const float score = finite(detector.scores[row], face);
    std::string line = "{\"face\": " + std::to_string(face) + ", \"score\": ";
    char number[32];
    const auto text = [&number](float value) {
        std::snprintf(number, sizeof number, "%.9g", static_cast<double>(value));
        return number;
    };
    line += text(score);
    line += score >= threshold ? ", \"fake\": true" : ", \"fake\": false";
    const float* cell = detector.maps.data() + row * detector.cells();
    for (std::size_t y = 0; map && y < detector.rows(); ++y) {
        line += y ? ", [" : ", \"map\": [[";
        for (std::size_t x = 0; x < detector.columns(); ++x)
            line += (x ? ", " : "") + std::string(text(finite(*cell++, face)));
        line += "]";
    }
    std::printf("%s%s}\n", line.c_str(), map ? "]" : "");
}

void score_input(Detector& detector, std::FILE* input, const Options& options) {
    const double threshold = json_number(options.model + "/card.json", "threshold");
    const int32_t most = detector.batch();
    const int32_t limit = options.batch ? std::min(options.batch, most) : most;
    std::size_t face = 0, rest = 0;
    while (rest == 0 && !std::feof(input)) {
        const std::size_t bytes = read_faces(input, detector, limit);
        const int32_t count = static_cast<int32_t>(bytes / detector.face_bytes());
        rest = bytes % detector.face_bytes();
        detector.infer(count);
        for (int32_t row = 0; row < count; ++row)
            print_face(detector, row, face++, static_cast<float>(threshold), options.map);
        // Whoever feeds a live stream waits for these lines.
        if (std::fflush(stdout) != 0) fail(std::string("cannot write: ") + std::strerror(errno));
    }
    if (rest != 0)
        fail("the input ends within face " + std::to_string(face) + ": it has "
             + std::to_string(rest) + " of " + std::to_string(detector.face_bytes())
             + " bytes, uint8 RGB");
    if (face == 0) fail("the input is empty: expected faces, uint8 RGB");
}

bool self_test(Detector& detector, const Options& options) {
    const std::string path = options.model + "/expected.json";
    const double expected = json_number(path, "score"), tolerance = json_number(path, "tolerance");
    const File file = open_file(options.model + "/face.rgb");
    if (read_faces(file.get(), detector, 1) != detector.face_bytes())
        fail("face.rgb is cut off: expected " + std::to_string(detector.face_bytes()) + " bytes");
    detector.infer(1);
    const double score = finite(detector.scores[0], 0), difference = std::fabs(score - expected);
    const bool passed = difference <= tolerance;
    std::printf("{\"self_test\": \"%s\", \"score\": %.9g, \"expected\": %.9g, "
                "\"tolerance\": %.9g}\n",
                passed ? "passed" : "failed", score, expected, tolerance);
    if (!passed)
        std::fprintf(stderr, "the self-test failed: the score is off by %.3g\n", difference);
    return passed;
}

int whole_number(const std::string& option, const char* text, long least) {
    char* end = nullptr;
    const long value = text ? std::strtol(text, &end, 10) : 0;
    if (!text || end == text || *end || value < least || value > INT32_MAX)
        fail(option + " needs a whole number from " + std::to_string(least) + " on");
    return static_cast<int>(value);
}

Options parse(char** words) {
    Options options;
    while (const char* word = *++words) {
        const std::string option = word;
        if (option == "--map") options.map = true;
        else if (option == "--self-test") options.self_test = true;
        else if (option == "--allow-host-code") options.settings.allow_host_code = true;
        else if (option == "--model" && words[1]) options.model = *++words;
        else if (option == "--batch") options.batch = whole_number(option, *++words, 1);
        else if (option == "--dla") options.settings.dla_core = whole_number(option, *++words, 0);
        else if (option.rfind("--", 0) == 0 || !options.input.empty())
            fail("unexpected argument " + option + "; main.cpp begins with a list of the options");
        else options.input = option;
    }
    if (options.self_test && !options.input.empty()) fail("--self-test scores its own face");
    return options;
}

}  // namespace

int main(int, char** arguments) {
    try {
        Options options = parse(arguments);
        const File file = options.input.empty() ? File() : open_file(options.input);
        const double size = json_number(options.model + "/card.json", "input_size");
        if (!(size >= 1 && size <= 4096)) fail("card.json has an input_size outside 1 to 4096");
        options.settings.input_size = static_cast<int32_t>(size);
        Detector detector(read_file(options.model + "/engine.plan"), options.settings);
        if (options.self_test) return self_test(detector, options) ? 0 : 1;
        score_input(detector, file ? file.get() : stdin, options);
        return 0;
    } catch (const std::exception& error) {
        std::fflush(stdout);
        std::fprintf(stderr, "error: %s\n", error.what());
        return 2;
    }
}
