// Two pipelines in two threads make, each, the clip that one makes alone: two_threads MODEL_FOLDER.
// Under the thread sanitizer it also shows that they share nothing that is written.
#include <cstdio>
#include <memory>
#include <thread>

#include "noise2music/pipeline.h"

namespace {

struct Job {
  const char* folder;
  const char* route;
  n2m::Clip clip;
  bool ok = false;

  void Run() {
    std::unique_ptr<n2m::Pipeline> pipeline;
    n2m::PipelineOptions options;
    options.num_threads = 2;
    n2m::Status status = n2m::Pipeline::Load(folder, options, &pipeline);
    n2m::GenerateOptions what;
    what.seconds = 0.1;
    what.route = route;
    what.every_stage.steps = 2;
    if (status.ok()) status = pipeline->Generate("fast dance tune at 120 bpm", what, &clip);
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
    ok = status.ok();
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  for (const char* second : {"spectrogram", "waveform"}) {
    Job a{argv[1], "spectrogram", {}}, b{argv[1], second, {}}, alone{argv[1], second, {}};
    std::thread one([&a] { a.Run(); }), two([&b] { b.Run(); });
    one.join();
    two.join();
    alone.Run();
    if (!a.ok || !b.ok || !alone.ok || b.clip.samples != alone.clip.samples) {
      std::fprintf(stderr, "%s: the clips differ\n", second);
      return 1;
    }
  }
  std::printf("two pipelines are independent\n");
  return 0;
}
