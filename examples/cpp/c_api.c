/* The cascade from C: c_api MODEL_FOLDER "prompt" out.wav [seconds] */
#include <noise2music/c_api.h>
#include <stdio.h>
#include <stdlib.h>

static int show(const char* stage, int64_t done, int64_t total, void* user_data) {
  (void)user_data;
  if (done == total) printf("%s: %ld steps\n", stage, (long)total);
  return 0; /* anything else would cancel */
}

int main(int argc, char** argv) {
  n2m_pipeline* pipeline = NULL;
  n2m_clip* clip = NULL;
  n2m_generate_options options;
  n2m_status status;
  if (argc < 4) {
    fprintf(stderr, "c_api MODEL_FOLDER \"prompt\" out.wav [seconds]\n");
    return 2;
  }
  n2m_generate_defaults(&options);
  if (argc > 4) options.seconds = atof(argv[4]);
  options.progress = show;
  status = n2m_pipeline_load(argv[1], NULL, &pipeline);
  if (status == N2M_OK) status = n2m_generate(pipeline, argv[2], &options, &clip);
  if (status == N2M_OK) status = n2m_clip_write_wav(clip, argv[3], N2M_WAV_PCM16);
  if (status == N2M_OK) {
    printf("%s: %ld samples at %d Hz, noise2music %s\n", argv[3], (long)n2m_clip_length(clip),
           (int)n2m_clip_sample_rate(clip), n2m_version());
  } else {
    fprintf(stderr, "%s\n", n2m_last_error());
  }
  n2m_clip_free(clip);
  n2m_pipeline_free(pipeline);
  return status == N2M_OK ? 0 : 1;
}
