/* The cascade for C programs and for other languages: opaque handles, status codes, no exceptions.
 *
 *   n2m_pipeline* pipeline = NULL;
 *   n2m_clip* clip = NULL;
 *   n2m_status status = n2m_pipeline_load("models/tiny", NULL, &pipeline);
 *   if (status == N2M_OK) status = n2m_generate(pipeline, "slow church organ chorale", NULL,
 * &clip); if (status == N2M_OK) status = n2m_clip_write_wav(clip, "out.wav", N2M_WAV_PCM16); if
 * (status != N2M_OK) fprintf(stderr, "%s\n", n2m_last_error()); n2m_clip_free(clip);
 *   n2m_pipeline_free(pipeline);
 *
 * Strings are UTF-8. Structs begin with their own size, so that a program built with an older
 * header goes on working. noise2music/pipeline.h is the same for C++, with more settings.
 */
#ifndef NOISE2MUSIC_C_API_H_
#define NOISE2MUSIC_C_API_H_

#include <stddef.h>
#include <stdint.h>

#include "noise2music/export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct n2m_pipeline n2m_pipeline;
typedef struct n2m_clip n2m_clip;

typedef enum n2m_status {
  N2M_OK = 0,
  N2M_INVALID_ARGUMENT = 1, /* an argument, a file or a model that cannot be used */
  N2M_CANCELLED = 2,        /* the progress callback asked to stop */
  N2M_BAD_OUTPUT = 3,       /* a stage made NaN, infinity or silence */
  N2M_OUT_OF_MEMORY = 4
} n2m_status;

typedef enum n2m_wav_format {
  N2M_WAV_PCM16 = 0,
  N2M_WAV_PCM24 = 1,
  N2M_WAV_FLOAT32 = 2
} n2m_wav_format;

/* What went wrong in this thread's last call that did not answer N2M_OK; "" if none did. */
N2M_API const char* n2m_last_error(void);

/* The library's version, "0.1.0". */
N2M_API const char* n2m_version(void);

typedef struct n2m_pipeline_options {
  size_t struct_size;  /* sizeof(n2m_pipeline_options) */
  int32_t num_threads; /* below 1: as many as the process may use */
  int32_t bfloat16;    /* not 0: activations of the networks in bfloat16 */
} n2m_pipeline_options;

/* Called before every step and when a stage is done. Not 0 cancels. */
typedef int (*n2m_progress)(const char* stage, int64_t done, int64_t total, void* user_data);

typedef struct n2m_generate_options {
  size_t struct_size; /* sizeof(n2m_generate_options) */
  double seconds;     /* 0.1 to 60; 0: 10 */
  uint32_t seed;
  uint32_t index;       /* position of the clip in the noise contract */
  const char* route;    /* "spectrogram" or "waveform"; NULL: spectrogram */
  const char* negative; /* what the music should keep away from, or NULL */
  int64_t steps;        /* of every stage; 0: the model's */
  double guidance; /* of every stage; below 0: the model's. Filled in by n2m_generate_defaults. */
  n2m_progress progress;
  void* user_data;
} n2m_generate_options;

/* Fills in what an options struct is when nothing is asked for. */
N2M_API void n2m_pipeline_defaults(n2m_pipeline_options* options);
N2M_API void n2m_generate_defaults(n2m_generate_options* options);

/* Reads the model in a folder. options may be NULL. One thread at a time may use a pipeline;
 * several are independent. */
N2M_API n2m_status n2m_pipeline_load(const char* folder, const n2m_pipeline_options* options,
                                     n2m_pipeline** out);
N2M_API void n2m_pipeline_free(n2m_pipeline* pipeline); /* NULL is legal */

/* Music for one prompt; "" is unconditional. options may be NULL. On an error *out is NULL. */
N2M_API n2m_status n2m_generate(n2m_pipeline* pipeline, const char* prompt,
                                const n2m_generate_options* options, n2m_clip** out);
N2M_API void n2m_clip_free(n2m_clip* clip); /* NULL is legal */

/* The samples, mono, nominally in [-1, 1]; they live as long as the clip. */
N2M_API const float* n2m_clip_samples(const n2m_clip* clip);
N2M_API int64_t n2m_clip_length(const n2m_clip* clip);
N2M_API int32_t n2m_clip_sample_rate(const n2m_clip* clip);
/* JSON: what `noise2music replay` needs. */
N2M_API const char* n2m_clip_metadata(const n2m_clip* clip);

/* Writes a WAV file under a temporary name and renames it; peaks are held at -1 dBFS. */
N2M_API n2m_status n2m_clip_write_wav(const n2m_clip* clip, const char* path,
                                      n2m_wav_format format);

#ifdef __cplusplus
}
#endif

#endif /* NOISE2MUSIC_C_API_H_ */
