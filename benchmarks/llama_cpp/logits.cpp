// logits MODEL LENGTH THREADS: for every LENGTH int32 token ids on stdin, LENGTH x vocabulary float32 logits on stdout.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

static int fail(const char* what) {
    std::fprintf(stderr, "logits: %s\n", what);
    return 1;
}

int main(int argc, char** argv) {
    if (argc != 4) return fail("expected MODEL LENGTH THREADS");
    const int length = std::atoi(argv[2]), threads = std::atoi(argv[3]);
    if (length < 1 || threads < 1) return fail("LENGTH and THREADS have to be at least 1");
    llama_log_set([](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return fail("the model cannot be loaded");
    llama_context_params settings = llama_context_default_params();
    settings.n_ctx = settings.n_batch = length;
    settings.n_ubatch = length < 512 ? length : 512;
    settings.n_threads = settings.n_threads_batch = threads;
    llama_context* context = llama_init_from_model(model, settings);
    if (!context) return fail("no room for the context");
    const size_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::vector<llama_token> ids(length);
    llama_batch batch = llama_batch_init(length, 0, 1);
    batch.n_tokens = length;
    while (std::fread(ids.data(), sizeof(llama_token), length, stdin) == size_t(length)) {
        llama_memory_clear(llama_get_memory(context), true);
        for (int i = 0; i < length; ++i) {
            batch.token[i] = ids[i], batch.pos[i] = i, batch.n_seq_id[i] = 1, batch.seq_id[i][0] = 0, batch.logits[i] = 1;
        }
        if (llama_decode(context, batch)) return fail("llama_decode failed");
        for (int i = 0; i < length; ++i) {
            const float* row = llama_get_logits_ith(context, i);
            if (!row || std::fwrite(row, sizeof(float), vocabulary, stdout) != vocabulary) return fail("logits cannot be written");
        }
        std::fflush(stdout);
    }
    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
}
