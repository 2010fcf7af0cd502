/* Print a checksum of boxes of JPEG files as the native decoder resizes them: the same on every processor.
 *
 *     pixels FILE...
 */
#include "../../imgcls/data/decoding/_native.c"

static uint64_t checksum = 0xcbf29ce484222325u;

static void add(const unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) checksum = (checksum ^ bytes[i]) * 0x100000001b3u;
}

int main(int count, char **paths) {
    int decoded = 0;
    Workspace *space = imgcls_workspace_new(1);
    for (int number = 1; space && number < count; number++) {
        size_t used = 0, length = 0;
        if (read_file(space, paths[number], &used, &length) != STATUS_OK) continue;
        File file = {.data = space->contents.bytes, .length = length, .status = STATUS_OK};
        int32_t size[2];
        if (size_of(&file, 1 << 26, size) != STATUS_OK) continue;
        for (int which = 0; which < 12; which++) {
            double height = size[0], width = size[1];
            /* Fewer and more source pixels than outputs, an odd edge, and mirrored. */
            double box[4] = {width * (which % 3) / 7, height * (which % 4) / 9, width - which % 2, height * (1 - which / 24.0)};
            Shape shape = {.height = 1 + 37 * (which % 5), .width = 3 + 29 * (which % 7), .channels = which % 4 ? 3 : 1};
            size_t bytes = (size_t)shape.height * shape.width * shape.channels;
            unsigned char *out = calloc(bytes, 1);
            int32_t status = out ? decode_one(space, &file, box, which % 2, which % 4 == 3 ? BICUBIC : BILINEAR, shape, out) : STATUS_MEMORY;
            add((const unsigned char *)&status, sizeof status);
            if (status == STATUS_OK) add(out, bytes);
            decoded += status == STATUS_OK;
            free(out);
        }
    }
    imgcls_workspace_free(space);
    printf("%d boxes, checksum %016llx\n", decoded, (unsigned long long)checksum);
    return decoded ? 0 : 1;
}
