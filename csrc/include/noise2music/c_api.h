/** \file
 * The cascade for C programs and for other languages: opaque handles, status codes, no exceptions.
 *
 * Strings are UTF-8. Structs begin with their own size, so that a program built with an older
 * header goes on working. noise2music/pipeline.h is the same for C++, with more settings.
 *
 * \include c_api.c
 */
#ifndef NOISE2MUSIC_C_API_H_
#define NOISE2MUSIC_C_API_H_

#include <stddef.h>
#include <stdint.h>

#include "noise2music/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A model that was opened. */
typedef struct n2m_pipeline n2m_pipeline;
/** A piece of music. */
typedef struct n2m_clip n2m_clip;

/** How a call ended. */
typedef enum n2m_status {
  N2M_OK = 0,               /**< Done. */
  N2M_INVALID_ARGUMENT = 1, /**< An argument, a file or a model that cannot be used. */
  N2M_CANCELLED = 2,        /**< The progress callback asked to stop. */
  N2M_BAD_OUTPUT = 3,       /**< A stage made NaN, infinity or silence. */
  N2M_OUT_OF_MEMORY = 4     /**< Memory ended. */
} n2m_status;

/** How samples are stored in a file. */
typedef enum n2m_wav_format {
  N2M_WAV_PCM16 = 0,  /**< Whole numbers of 16 bits. */
  N2M_WAV_PCM24 = 1,  /**< Whole numbers of 24 bits. */
  N2M_WAV_FLOAT32 = 2 /**< As they are. */
} n2m_wav_format;

/** What went wrong in this thread's last call that did not answer N2M_OK; "" if none did. */
N2M_API const char* n2m_last_error(void);

/** The library's version, "0.1.0". */
N2M_API const char* n2m_version(void);

/** How a model is opened. */
typedef struct n2m_pipeline_options {
  size_t struct_size;  /**< sizeof(n2m_pipeline_options). */
  int32_t num_threads; /**< Below 1: as many as the process may use. */
  int32_t bfloat16;    /**< Not 0: activations of the networks in bfloat16. */
} n2m_pipeline_options;

/** Called before every step and when a stage is done. Not 0 cancels. */
typedef int (*n2m_progress)(const char* stage, int64_t done, int64_t total, void* user_data);

/** How a clip is made. n2m_generate_defaults fills it in. */
typedef struct n2m_generate_options {
  size_t struct_size;    /**< sizeof(n2m_generate_options). */
  double seconds;        /**< 0.1 to 60; 0: 10. */
  uint32_t seed;         /**< The same seed, the same clip. */
  uint32_t index;        /**< Position of the clip in the noise contract. */
  const char* route;     /**< "spectrogram" or "waveform"; NULL: spectrogram. */
  const char* negative;  /**< What the music should keep away from, or NULL. */
  int64_t steps;         /**< Of every stage; 0: the model's. */
  double guidance;       /**< Of every stage; below 0: the model's. */
  n2m_progress progress; /**< May be NULL. */
  void* user_data;       /**< Handed to progress. */
} n2m_generate_options;

/** Fills in what the options are when nothing is asked for. */
N2M_API void n2m_pipeline_defaults(n2m_pipeline_options* options);
/** Fills in what the options are when nothing is asked for. */
N2M_API void n2m_generate_defaults(n2m_generate_options* options);

/** Reads the model in a folder. options may be NULL. One thread at a time may use a pipeline;
 * several are independent. */
N2M_API n2m_status n2m_pipeline_load(const char* folder, const n2m_pipeline_options* options,
                                     n2m_pipeline** out);
/** Closes a model; NULL is legal. */
N2M_API void n2m_pipeline_free(n2m_pipeline* pipeline);

/** Music for one prompt; "" is unconditional. options may be NULL. On an error *out is NULL. */
N2M_API n2m_status n2m_generate(n2m_pipeline* pipeline, const char* prompt,
                                const n2m_generate_options* options, n2m_clip** out);
/** Frees a clip; NULL is legal. */
N2M_API void n2m_clip_free(n2m_clip* clip);

/** The samples, mono, nominally in [-1, 1]; they live as long as the clip. */
N2M_API const float* n2m_clip_samples(const n2m_clip* clip);
/** How many samples there are. */
N2M_API int64_t n2m_clip_length(const n2m_clip* clip);
/** Samples a second. */
N2M_API int32_t n2m_clip_sample_rate(const n2m_clip* clip);
/** JSON: what `noise2music replay` needs. */
N2M_API const char* n2m_clip_metadata(const n2m_clip* clip);

/** Writes a WAV file under a temporary name and renames it; peaks are held at -1 dBFS. */
N2M_API n2m_status n2m_clip_write_wav(const n2m_clip* clip, const char* path,
                                      n2m_wav_format format);

#ifdef __cplusplus
}
#endif

#endif /* NOISE2MUSIC_C_API_H_ */
