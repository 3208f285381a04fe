// Runs one op of the CPU kernels on arrays from files, where no Python is: the first argument is the op, the second the
// instruction set, then name=value. Arrays are raw little-endian files; those that are written must be there already.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "api.h"

using namespace fastreg;

namespace {

std::map<std::string, std::string> given;

int64_t number(const char* name) { return std::atoll(given.at(name).c_str()); }
double real(const char* name) { return std::atof(given.at(name).c_str()); }

struct Array {
  std::string path;
  std::vector<char> bytes;

  explicit Array(const char* name) {
    if (!given.count(name)) return;
    path = given[name];
    std::FILE* file = std::fopen(path.c_str(), "rb");
    std::fseek(file, 0, SEEK_END);
    bytes.resize(size_t(std::ftell(file)));
    std::rewind(file);
    if (std::fread(bytes.data(), 1, bytes.size(), file) != bytes.size()) std::abort();
    std::fclose(file);
  }
  void* data() { return path.empty() ? nullptr : bytes.data(); }
  void write() const {
    if (path.empty()) return;
    std::FILE* file = std::fopen(path.c_str(), "wb");
    std::fwrite(bytes.data(), 1, bytes.size(), file);
    std::fclose(file);
  }
};

void sizes(const char* name, int64_t (&to)[3]) {
  if (std::sscanf(given.at(name).c_str(), "%ldx%ldx%ld", &to[0], &to[1], &to[2]) != 3) std::abort();
}

// What the arguments of every op begin with.
template <class Args>
Args described() {
  Args args{};
  args.ndim = int(number("ndim"));
  args.batch = number("batch");
  sizes("size", args.size);
  args.dtype = DType(number("dtype"));
  args.threads = 1;
  return args;
}

void run_warp() {
  Array vol("vol"), flow("flow"), out("out"), grad_out("grad_out"), grad_vol("grad_vol"), grad_flow("grad_flow");
  auto args = described<WarpArgs>();
  args.channels = number("channels");
  sizes("grid", args.grid);
  args.mode = Mode(number("mode"));
  args.padding = Padding(number("padding"));
  args.channels_last = number("channels_last") != 0;
  args.vol = vol.data();
  args.flow = flow.data();
  args.out = out.data();
  args.grad_out = grad_out.data();
  args.grad_vol = grad_vol.data();
  args.grad_flow = grad_flow.data();
  cpu::warp_forward(args);
  cpu::warp_backward(args);
  out.write();
  grad_vol.write();
  grad_flow.write();
}

void run_lncc() {
  Array a("a"), b("b"), mask("mask"), grad_a("grad_a"), grad_b("grad_b"), map("map");
  auto args = described<LnccArgs>();
  args.channels = number("channels");
  int64_t window[3];
  sizes("window", window);
  for (int axis = 0; axis < 3; ++axis) args.form.window[axis] = int(window[axis]);
  args.form.squared = true;
  args.form.floor = Floor(number("floor"));
  args.form.floor_eps = real("floor_eps");
  args.form.den_eps = real("den_eps");
  args.form.flat_eps = real("flat_eps");
  args.form.count = number("count") != 0;
  args.a = a.data();
  args.b = b.data();
  args.mask = args.weight = mask.data();
  args.mask_channels = args.weight_channels = 1;
  args.scale = 1;
  args.grad_a = grad_a.data();
  args.grad_b = grad_b.data();
  args.map = map.data();
  std::printf("%.17g\n", cpu::lncc(args));
  grad_a.write();
  grad_b.write();
  map.write();
}

void run_integrate() {
  Array velocity("velocity"), flow("flow"), saved("saved"), grad_flow("grad_flow"), grad_velocity("grad_velocity");
  auto args = described<IntegrateArgs>();
  args.steps = int(number("steps"));
  args.padding = Padding(number("padding"));
  args.velocity = velocity.data();
  args.flow = flow.data();
  args.saved = saved.data();
  args.grad_flow = grad_flow.data();
  args.grad_velocity = grad_velocity.data();
  cpu::integrate_forward(args);
  cpu::integrate_backward(args);
  flow.write();
  grad_velocity.write();
}

void run_correlate() {
  Array a("a"), b("b"), out("out"), grad("grad"), grad_a("grad_a"), grad_b("grad_b");
  auto args = described<CorrelateArgs>();
  args.channels = number("channels");
  args.radius = int(number("radius"));
  args.measure = Measure(number("measure"));
  args.padding = Padding(number("padding"));
  args.sharpness = real("sharpness");
  args.a = a.data();
  args.b = b.data();
  args.out = out.data();
  cpu::correlate_forward(args);
  args.grad = grad.data();  // what tells the two apart
  args.grad_a = grad_a.data();
  args.grad_b = grad_b.data();
  cpu::correlate_backward(args);
  out.write();
  grad_a.write();
  grad_b.write();
}

void run_mind() {
  Array image("image"), floor("floor"), out("out"), grad_out("grad_out"), grad_image("grad_image");
  auto args = described<MindArgs>();
  args.channels = number("channels");
  args.kind = MindKind(number("kind"));
  args.image = image.data();
  args.floor = floor.data();
  args.out = out.data();
  args.grad_out = grad_out.data();
  args.grad_image = grad_image.data();
  cpu::mind_forward(args);
  cpu::mind_backward(args);
  out.write();
  grad_image.write();
}

}  // namespace

int main(int count, char** words) {
  if (count < 2) {
    std::printf("%s\n", cpu::isa());
    return 0;
  }
  cpu::set_isa(words[2]);
  for (int i = 3; i < count; ++i) {
    const std::string word = words[i];
    given[word.substr(0, word.find('='))] = word.substr(word.find('=') + 1);
  }
  if (!std::strcmp(words[1], "warp")) run_warp();
  else if (!std::strcmp(words[1], "lncc")) run_lncc();
  else if (!std::strcmp(words[1], "correlate")) run_correlate();
  else if (!std::strcmp(words[1], "mind")) run_mind();
  else run_integrate();
  return 0;
}
