/* Fuzz the native decoder: any bytes, any box. `python scripts/dev/fuzz_native.py` builds and runs this.
 *
 * Each input is decoded with AVX2 and without into buffers of exactly their size. Besides what the sanitizers see, it
 * aborts where the two differ, and where a box of an image differs from the same box of the whole image decoded, which
 * holds jpeg_crop_scanline and jpeg_skip_scanlines to what we take them to do. What is decoded is also written again with
 * restart markers, and must then have the same pixels.
 *
 * Compiled with clang -fsanitize=fuzzer it is a libFuzzer target; with STANDALONE it mutates a folder of files itself:
 *     fuzz_native FOLDER EXECUTIONS [SEED]
 */
#include "../../imgcls/data/decoding/_native.c"

enum { MAX_PIXELS = 1 << 18 };

static uint64_t state;

static uint32_t draw(uint32_t bound) {
    state += 0x9E3779B97F4A7C15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) >> 16) % bound;
}

static const uint8_t *current;
static size_t current_size;

/* The input that did it, where the environment names a file for it. */
static void keep_input(void) {
    const char *path = getenv("FUZZ_INPUT");
    FILE *file = path && current ? fopen(path, "wb") : NULL;
    if (!file) return;
    fwrite(current, 1, current_size, file);
    fclose(file);
}

static void fail(const char *what) {
    keep_input();
    fprintf(stderr, "fuzz_native: %s\n", what);
    abort();
}

static void *allocate(size_t size) {
    void *memory = malloc(size ? size : 1);
    if (!memory) fail("no memory");
    return memory;
}

/* The whole image, row after row; NULL where libjpeg complains anywhere in it. */
static unsigned char *whole_image(const File *file, int channels, int *height, int *width) {
    static unsigned char *volatile pixels;
    Decoder decoder;
    prepare(&decoder);
    pixels = NULL;
    if (setjmp(decoder.trap.escape)) {
        jpeg_destroy_decompress(&decoder.cinfo);
        free(pixels);
        return NULL;
    }
    j_decompress_ptr cinfo = &decoder.cinfo;
    jpeg_create_decompress(cinfo);
    jpeg_mem_src(cinfo, file->data, (unsigned long)file->length);
    jpeg_read_header(cinfo, TRUE);
    cinfo->out_color_space = channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_start_decompress(cinfo);
    *height = (int)cinfo->output_height;
    *width = (int)cinfo->output_width;
    size_t stride = (size_t)*width * channels;
    pixels = allocate(stride * *height);
    while (cinfo->output_scanline < cinfo->output_height) {
        JSAMPROW row[1] = {pixels + cinfo->output_scanline * stride};
        jpeg_read_scanlines(cinfo, row, 1);
    }
    jpeg_destroy_decompress(cinfo);
    return pixels;
}

static Axis new_axis(int in_size, double begin, double end, int out_size, int flip, int filter) {
    Axis axis;
    axis.stride = axis_stride((float)begin, (float)end, out_size, filter);
    axis.first = allocate(sizeof(int32_t) * out_size);
    axis.count = allocate(sizeof(int32_t) * out_size);
    axis.weights = allocate(sizeof(int32_t) * out_size * axis.stride);
    if (!fill_axis(&axis, in_size, (float)begin, (float)end, out_size, flip, filter)) fail("no weights for a valid box");
    return axis;
}

static void free_axis(Axis *axis) {
    free(axis->first);
    free(axis->count);
    free(axis->weights);
}

/* The box of the whole image, one output at a time; 1 where it was compared. */
static int compare(const File *file, const double *box, int flip, int filter, Shape shape, const unsigned char *out) {
    int height = 0, width = 0, channels = shape.channels;
    unsigned char *pixels = whole_image(file, channels, &height, &width);
    if (!pixels) return 0;
    Axis across = new_axis(width, box[0], box[2], shape.width, flip, filter);
    Axis down = new_axis(height, box[1], box[3], shape.height, 0, filter);
    for (int x = 0; x < shape.width; x++) {
        for (int c = 0; c < channels; c++) {
            for (int y = 0; y < shape.height; y++) {
                int32_t sum = 1 << (WEIGHT_BITS - 1);
                for (int j = 0; j < down.count[y]; j++) {
                    const unsigned char *row = pixels + (size_t)(down.first[y] + j) * width * channels;
                    int32_t row_sum = 1 << (WEIGHT_BITS - 1);
                    for (int i = 0; i < across.count[x]; i++)
                        row_sum += across.weights[x * across.stride + i] * row[(across.first[x] + i) * channels + c];
                    sum += down.weights[y * down.stride + j] * to_byte(row_sum);
                }
                if (to_byte(sum) != out[((size_t)y * shape.width + x) * channels + c])
                    fail("a box differs from the box of the whole image");
            }
        }
    }
    free_axis(&across);
    free_axis(&down);
    free(pixels);
    return 1;
}

static long counts[9], compared, rewritten;

/* Pixels of a file with restart markers of its own may differ from libjpeg's where its data are broken. */
static int has_segment(const File *file) {
    Segment segment;
    return read_segment(file->data, file->length, &segment);
}

/* The same box of the file written again. */
static void compare_rewritten(Workspace *space, const File *file, const double *box, uint8_t flip, int filter,
                              Shape shape, const unsigned char *wanted, size_t bytes) {
    size_t capacity = 2 * file->length + (1 << 16);
    unsigned char *written = allocate(capacity), *out = allocate(bytes);
    int64_t length;
    int32_t image[2], status;
    if (imgcls_write_restarts(file->data, (int64_t)file->length, 1 + (int32_t)draw(20), MAX_PIXELS, written,
                              (int64_t)capacity, &length) == STATUS_OK) {
        /* In memory of exactly its size. */
        unsigned char *exact = allocate((size_t)length);
        memcpy(exact, written, (size_t)length);
        const unsigned char *pointer = exact;
        if (imgcls_open_bytes(space, &pointer, &length, 1, MAX_PIXELS, image, &status)) fail("open");
        if (imgcls_decode(space, box, &flip, 1, shape.height, shape.width, shape.channels, filter, out, &status))
            fail("decode");
        if (status != STATUS_OK) fail("a file written with restart markers is refused");
        if (memcmp(out, wanted, bytes)) fail("a file written with restart markers has other pixels");
        rewritten++;
        free(exact);
    }
    free(written);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Workspace *spaces[2];
    for (int i = 0; i < 2; i++)
        if (!spaces[i] && !(spaces[i] = imgcls_workspace_new(i == 0))) fail("no memory");
    /* What is asked for follows from the bytes, so that an input alone repeats a failure. */
    state = size;
    for (size_t i = 0; i < size; i++) state = (state ^ data[i]) * 0x100000001B3u;

    unsigned char *copy = allocate(size);
    memcpy(copy, data, size);
    const unsigned char *pointer = copy;
    int64_t length = (int64_t)size;
    int32_t image[2], status;
    if (imgcls_open_bytes(spaces[0], &pointer, &length, 1, MAX_PIXELS, image, &status)) fail("open");
    if (status == STATUS_OK && (image[0] < 1 || image[1] < 1)) fail("a size below one");

    double height = image[0], width = image[1];
    double box[4] = {draw(1000) * 1e-3 * width, draw(1000) * 1e-3 * height, width, height};
    box[2] = box[0] + (draw(1000) + 1) * 1e-3 * (width - box[0]);
    box[3] = box[1] + (draw(1000) + 1) * 1e-3 * (height - box[1]);
    if (draw(4))
        for (int i = 0; i < 4; i++) box[i] = i < 2 ? floor(box[i]) : ceil(box[i]);
    if (!draw(4)) box[0] = box[1] = 0;
    if (!draw(4)) box[2] = width, box[3] = height;
    if (!draw(50)) {
        const double odd[] = {-1, -0.0, 1e-30, 1e30, 65536, INFINITY, NAN};
        box[draw(4)] = odd[draw(7)];
    }
    Shape shape = {1 + (int)draw(draw(8) ? 24 : 300), 1 + (int)draw(draw(8) ? 24 : 300), draw(3) ? 3 : 1};
    uint8_t flip = (uint8_t)draw(2);
    int filter = draw(2) ? BICUBIC : BILINEAR;
    size_t bytes = (size_t)shape.height * shape.width * shape.channels;
    int32_t result[2] = {0, 0};
    unsigned char *outs[2];
    for (int i = 0; i < 2; i++) {
        outs[i] = allocate(bytes);
        if (i && imgcls_open_bytes(spaces[i], &pointer, &length, 1, MAX_PIXELS, image, &status)) fail("open");
        if (imgcls_decode(spaces[i], box, &flip, 1, shape.height, shape.width, shape.channels, filter, outs[i],
                          &result[i]))
            fail("decode");
    }
    int32_t bottom = 1 + (int32_t)draw(64);
    if (imgcls_skim(spaces[0], &bottom, 1, &status)) fail("skim");
    if (result[0] != result[1]) fail("the status differs without AVX2");
    counts[result[0]]++;
    if (result[0] == STATUS_OK) {
        if (memcmp(outs[0], outs[1], bytes)) fail("the pixels differ without AVX2");
        File file = spaces[0]->files[0];
        if (!has_segment(&file)) {
            compared += compare(&file, box, flip, filter, shape, outs[0]);
            compare_rewritten(spaces[draw(2)], &file, box, flip, filter, shape, outs[0], bytes);
        }
    } else if (result[0] == STATUS_CORRUPT && !has_segment(&spaces[0]->files[0])) {
        int h, w;
        unsigned char *pixels = whole_image(&spaces[0]->files[0], shape.channels, &h, &w);
        if (pixels) fail("a box is called corrupt, the whole image is not");
    }
    free(outs[0]);
    free(outs[1]);
    free(copy);
    return 0;
}

#ifdef STANDALONE
#include <dirent.h>
#include <time.h>

void __sanitizer_set_death_callback(void (*callback)(void));

enum { MAX_SEEDS = 4096, MAX_SIZE = 1 << 17 };

static unsigned char *seeds[MAX_SEEDS];
static size_t sizes[MAX_SEEDS];
static int num_seeds;

static void read_seeds(const char *folder) {
    DIR *listing = opendir(folder);
    if (!listing) fail("cannot open the folder");
    for (struct dirent *entry; (entry = readdir(listing)) && num_seeds < MAX_SEEDS;) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!file) continue;
        seeds[num_seeds] = allocate(MAX_SIZE);
        sizes[num_seeds] = fread(seeds[num_seeds], 1, MAX_SIZE / 2, file);
        num_seeds += sizes[num_seeds] > 0;
        fclose(file);
    }
    closedir(listing);
    if (!num_seeds) fail("no files in the folder");
}

/* Where the headers are, mostly. */
static size_t place(size_t size) { return draw((uint32_t)(draw(2) && size > 700 ? 700 : size)); }

static size_t mutate(unsigned char *data, size_t size) {
    static const unsigned char markers[] = {0xC0, 0xC1, 0xC2, 0xC4, 0xC8, 0xC9, 0xD0, 0xD7, 0xD8, 0xD9,
                                            0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE, 0xFE, 0x00, 0xFF};
    for (int steps = 1 + (int)draw(3); steps-- && size > 8;) {
        size_t at = place(size - 4), span;
        switch (draw(9)) {
            case 0: data[at] ^= (unsigned char)(1 << draw(8)); break;
            case 1: data[at] = (unsigned char)draw(256); break;
            case 2: data[at] = 0xFF, data[at + 1] = markers[draw(sizeof markers)]; break;
            case 3: data[at] = 0, data[at + 1] = (unsigned char)draw(40); break;
            case 4: size = at + 4; break;
            case 5:
                span = 1 + draw((uint32_t)(size - at - 1));
                if (draw(2) && span > 16) span = 16;
                memmove(data + at, data + at + span, size - at - span);
                size -= span;
                break;
            case 6:
                span = 1 + draw(64);
                if (size + span > MAX_SIZE) break;
                memmove(data + at + span, data + at, size - at);
                size += span;
                break;
            case 7: {
                int other = (int)draw((uint32_t)num_seeds);
                span = 1 + draw(512);
                size_t from = draw((uint32_t)sizes[other]);
                if (span > sizes[other] - from) span = sizes[other] - from;
                if (span > size - at) span = size - at;
                memcpy(data + at, seeds[other] + from, span);
                break;
            }
            default:
                /* A frame header's height, width, components or sampling. */
                for (size_t i = 0; i + 20 < size && i < 4096; i++) {
                    if (data[i] != 0xFF || data[i + 1] < 0xC0 || data[i + 1] > 0xC2) continue;
                    size_t field = draw(15);
                    data[i + 5 + field] = field > 5 && draw(2) ? (unsigned char)((1 + draw(2)) * 16 + 1 + draw(2))
                                                               : (unsigned char)draw(draw(2) ? 4 : 256);
                    break;
                }
        }
    }
    if (draw(2) && size + 2 <= MAX_SIZE) data[size++] = 0xFF, data[size++] = 0xD9;
    return size;
}

int main(int count, char **arguments) {
    if (count < 3) fail("usage: fuzz_native FOLDER EXECUTIONS [SEED]");
    read_seeds(arguments[1]);
    long executions = atol(arguments[2]);
    uint64_t chain = count > 3 ? (uint64_t)atoll(arguments[3]) : 1;
    unsigned char *data = allocate(MAX_SIZE);
    __sanitizer_set_death_callback(keep_input);
    time_t begin = time(NULL);
    for (long n = 0; n < executions; n++) {
        state = chain;
        int seed = n < num_seeds ? (int)n : (int)draw((uint32_t)num_seeds);
        size_t size = sizes[seed];
        memcpy(data, seeds[seed], size);
        if (n >= num_seeds) size = mutate(data, size);
        chain = state;
        current = data;
        current_size = size;
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%ld executions over %d files in %ld s; by status:", executions, num_seeds, (long)(time(NULL) - begin));
    for (int i = 0; i < 9; i++) printf(" %ld", counts[i]);
    printf("; %ld compared with the whole image, %ld written again\n", compared, rewritten);
    for (int i = 0; i < num_seeds; i++) free(seeds[i]);
    free(data);
    return 0;
}
#endif
