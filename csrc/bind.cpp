// With arrays.h the only file that knows Python: checks shapes and ranges, releases the GIL, calls drivers.h.
// Every array argument is `.noconvert()`: a wrong dtype, layout or alignment is a TypeError, never a hidden copy.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <sys/stat.h>

#include <cmath>

#include "arrays.h"
#include "bpe.h"
#include "cpu.h"
#include "dispatch.h"
#include "drivers.h"
#include "experts.h"
#include "packed.h"
#include "profile.h"

using namespace qwick;

namespace {

using Part = std::tuple<std::string, Array<const uint8_t, 1>, int, int>;

using Matrices = std::vector<std::vector<Part>>;
using Shape = std::tuple<std::string, int, int>;  // stored type, n, k

std::vector<std::vector<Source>> sources_of(const Matrices& matrices) {
  std::vector<std::vector<Source>> sources;
  for (const auto& parts : matrices) {
    auto& matrix = sources.emplace_back();
    for (const Part& part : parts)
      matrix.push_back({stored_type(std::get<0>(part)), std::get<1>(part).data(), std::get<1>(part).size(),
                        std::get<2>(part), std::get<3>(part)});
  }
  return sources;
}

std::vector<Source> shapes_of(const std::vector<Shape>& shapes) {
  std::vector<Source> sources;
  for (const auto& [name, n, k] : shapes) {
    require(n >= 1 && k >= 1, "sizes must be from 1");
    const Stored type = stored_type(name);
    sources.push_back({type, nullptr, stored_row_bytes(type, k) * n, n, k});
  }
  return sources;
}

std::vector<Packed*> owned(std::vector<std::unique_ptr<Packed>> all) {  // by Python
  std::vector<Packed*> out;
  for (auto& packed : all) out.push_back(packed.release());
  return out;
}

std::vector<Packed*> pack(const Matrices& matrices, bool mapped) {
  const auto sources = sources_of(matrices);
  nb::gil_scoped_release release;
  return owned(Packed::pack(sources, mapped));
}

void pack_to(const Matrices& matrices, const std::vector<size_t>& offsets, Array<uint8_t, 1> out, bool mapped) {
  const auto sources = sources_of(matrices);
  require(reinterpret_cast<uintptr_t>(out.data()) % 64 == 0, "out must begin at a multiple of 64");
  nb::gil_scoped_release release;
  Packed::pack_to(sources, offsets, out.data(), out.size(), mapped);
}

struct MappedTiles {
  std::shared_ptr<const Tiles> tiles;  // of a file
  size_t bytes;                        // of them, without the rest of the last page

  MappedTiles(int file, size_t bytes) : bytes(bytes) {
    struct stat status {};
    require(bytes > 0 && fstat(file, &status) == 0 && static_cast<size_t>(status.st_size) >= bytes,
            "the file must hold as many bytes as are mapped, at least 1");
    tiles = std::make_shared<const Tiles>(file, bytes);
  }
  const Tiles& within(size_t begin, size_t length) const {
    require(begin <= bytes && length <= bytes - begin, "the range must lie within the mapping");
    return *tiles;
  }
};

std::vector<Packed*> packed_at(const std::vector<std::vector<Shape>>& matrices, const std::vector<size_t>& offsets,
                               const MappedTiles& mapping) {
  std::vector<std::vector<Source>> sources;
  for (const auto& shapes : matrices) sources.push_back(shapes_of(shapes));
  return owned(Packed::at(sources, offsets, mapping.tiles, mapping.bytes));
}

void make_bpe(Bpe* self, Array<const uint8_t, 1> tokens, Array<const int64_t, 1> token_starts,
              Array<const uint8_t, 1> merges, Array<const int64_t, 1> merge_starts) {
  const Strings vocabulary{tokens.data(), tokens.size(), token_starts.data(), token_starts.size()};
  const Strings rules{merges.data(), merges.size(), merge_starts.data(), merge_starts.size()};
  nb::gil_scoped_release release;
  new (self) Bpe(vocabulary, rules);
}

std::string_view bpe_token(const Bpe& bpe, int64_t id) {
  if (id < 0 || static_cast<size_t>(id) >= bpe.size()) throw nb::index_error("no token has this id");
  return bpe.token(id);
}

void py_matmul(const Packed& w, Array<const float, 2> x, Array<float, 2> out, Maybe<const float, 1> bias,
               bool prompt) {
  shape_is(x, 1, w.k(), "x");
  shape_is(out, 0, x.shape(0), "out");
  shape_is(out, 1, w.n(), "out");
  if (bias) shape_is(*bias, 0, w.n(), "bias");
  nb::gil_scoped_release release;
  matmul(w, x.data(), static_cast<int>(x.shape(0)), pointer(bias), out.data(), prompt);
}

void py_matmul_argmax(const Packed& w, Array<const float, 2> x, int n, Array<int32_t, 1> out) {
  require(w.segments().size() == 1, "w must be one matrix");
  require(n >= 1 && n <= w.n(), "columns must be from 1 to the height of w");
  shape_is(x, 1, w.k(), "x");
  shape_is(out, 0, x.shape(0), "out");
  nb::gil_scoped_release release;
  matmul_argmax(w, x.data(), static_cast<int>(x.shape(0)), n, out.data());
}

void py_gather_rows(const std::string& type, Array<const uint8_t, 1> data, int n, Array<const int32_t, 1> ids,
                    Array<float, 2> out) {
  const Source w{stored_type(type), data.data(), data.size(), n, static_cast<int>(out.shape(1))};
  require(n >= 1 && w.k % stored_block(w.type) == 0 && w.bytes == stored_row_bytes(w.type, w.k) * n,
          "the bytes given do not match the shape");
  shape_is(out, 0, ids.shape(0), "out");
  values_within(ids, n, "ids");
  nb::gil_scoped_release release;
  gather_rows(w, ids.data(), static_cast<int>(ids.shape(0)), out.data());
}

void py_unpack(const Packed& w, Array<float, 2> out) {
  shape_is(out, 0, w.n(), "out");
  shape_is(out, 1, w.k(), "out");
  nb::gil_scoped_release release;
  unpack(w, out.data());
}

void py_add_rms_norm(Array<float, 2> x, Maybe<const float, 2> delta, Array<const float, 1> weight, float eps,
                     Array<float, 2> out) {
  for (int axis = 0; axis < 2; ++axis) {
    shape_is(out, axis, x.shape(axis), "out");
    if (delta) shape_is(*delta, axis, x.shape(axis), "delta");
  }
  shape_is(weight, 0, x.shape(1), "weight");
  nb::gil_scoped_release release;
  add_rms_norm(x.data(), pointer(delta), weight.data(), eps, out.data(), static_cast<int>(x.shape(0)),
               static_cast<int>(x.shape(1)));
}

void check_pair(const Packed& gate_up, const Packed& down) {
  const auto& segments = gate_up.segments();
  require(segments.size() == 2 && segments[0].n == segments[1].n, "gate_up must be two matrices of the same height");
  require(down.k() == segments[0].n, "down must be as wide as gate and up are high");
}

void py_mlp(const Packed& gate_up, const Packed& down, Array<const float, 2> x, Array<float, 2> out, bool prompt) {
  check_pair(gate_up, down);
  shape_is(x, 1, gate_up.k(), "x");
  shape_is(out, 0, x.shape(0), "out");
  shape_is(out, 1, down.n(), "out");
  nb::gil_scoped_release release;
  mlp(gate_up, down, x.data(), static_cast<int>(x.shape(0)), out.data(), prompt);
}

struct ExpertSet {
  std::vector<std::pair<Packed, Packed>> parts;  // copies share their tiles
  std::vector<Expert> all;                       // the same, as the driver takes them
  bool shared;
  Uses uses;

  ExpertSet(std::vector<std::pair<Packed, Packed>> kept, bool shared) : parts(std::move(kept)), shared(shared), uses(parts.size()) {
    for (const auto& [gate_up, down] : parts) all.push_back({&gate_up, &down});
  }
  ExpertSet(const ExpertSet&) = delete;  // `all` points into `parts`
};

void make_experts(ExpertSet* self, const std::vector<std::pair<const Packed*, const Packed*>>& parts, bool shared) {
  require(parts.size() > (shared ? 1 : 0), "there must be an expert (beside a shared one)");
  std::vector<std::pair<Packed, Packed>> kept;
  for (const auto& [gate_up, down] : parts) {
    require(gate_up && down, "an expert must be two packed weights");
    check_pair(*gate_up, *down);
    require(gate_up->k() == parts[0].first->k() && down->n() == parts[0].second->n(), "experts must be of one width");
    kept.emplace_back(*gate_up, *down);
  }
  new (self) ExpertSet(std::move(kept), shared);
}

void check_routing(const ExpertSet& set, int top, const Array<const float, 2>& logits) {
  shape_is(logits, 1, set.all.size(), "logits");
  require(logits.shape(0) <= size_t{1} << 20, "x must have no more than 2**20 rows");  // times top: an int
  require(top >= 1 && top <= 1024 && top <= static_cast<int>(set.all.size()) - set.shared, "top must be from 1 to the number of experts");
}

std::vector<int> py_chosen(const ExpertSet& set, int top, Array<const float, 2> logits) {
  check_routing(set, top, logits);
  const Routing routing{top, true, set.shared};
  nb::gil_scoped_release release;
  return chosen(routing, static_cast<int>(set.all.size()), logits.data(), static_cast<int>(logits.shape(0)));
}

void py_experts(ExpertSet& set, int top, bool renormalize, Array<const float, 2> x, Array<const float, 2> logits,
                Array<float, 2> out, bool prompt) {
  const Expert& one = set.all[0];
  shape_is(x, 1, one.gate_up->k(), "x");
  shape_is(logits, 0, x.shape(0), "logits");
  check_routing(set, top, logits);
  shape_is(out, 0, x.shape(0), "out");
  shape_is(out, 1, one.down->n(), "out");
  const Routing routing{top, renormalize, set.shared};
  nb::gil_scoped_release release;
  experts(set.all, routing, x.data(), static_cast<int>(x.shape(0)), logits.data(), out.data(), prompt, set.uses);
}

// The pages' number format and sizes, checked: [pages][kv_heads] and two dimensions more. The inner order is that of
// kernels.h: float32 keys [head_dim][kPage], values [kPage][head_dim]; bf16 as uint16, keys [head_dim / 2][2 kPage], values
// [kPage / 2][2 head_dim]; 8 bits as uint8, keys [kPage][head_dim + head_dim / 8], values [kPage][head_dim + 8].
struct PageShape {
  KV kv;
  int kv_heads, head_dim;
};
PageShape check_pages(const Pages& keys, const Pages& values, int heads, size_t qkv_width) {
  const bool f32 = keys.dtype() == nb::dtype<float>(), bf16 = keys.dtype() == nb::dtype<uint16_t>();
  const bool i8 = keys.dtype() == nb::dtype<uint8_t>();
  require((f32 || bf16 || i8) && values.dtype() == keys.dtype(),
          "keys and values must both be float32, uint16 (bf16) or uint8 (8 bits with scales)");
  const size_t kv_heads = keys.shape(1);
  require(kv_heads >= 1 && heads >= 1 && heads % kv_heads == 0, "heads must be a multiple of kv_heads");
  require(heads / kv_heads <= kMaxQueryRows, "more than 64 heads share one key head");
  require(qkv_width % (heads + 2 * kv_heads) == 0, "qkv's width is no multiple of its heads");
  const size_t d = qkv_width / (heads + 2 * kv_heads), unit = i8 ? kGroup : 16;
  require(d >= unit && d % unit == 0 && d <= kMaxHeadDim,
          "head_dim must be a multiple of 16 (of 32 for 8-bit pages) up to 256");
  shape_is(values, 0, keys.shape(0), "values");
  shape_is(values, 1, kv_heads, "values");
  const size_t pair = bf16 ? 2 : 1;
  shape_is(keys, 2, i8 ? kPage : d / pair, "keys");
  shape_is(keys, 3, i8 ? d + d / 8 : kPage * pair, "keys");
  shape_is(values, 2, kPage / pair, "values");
  shape_is(values, 3, i8 ? d + 8 : d * pair, "values");
  return {f32 ? KV::F32 : bf16 ? KV::BF16 : KV::I8, static_cast<int>(kv_heads), static_cast<int>(d)};
}

void py_rope_store(Array<float, 2> qkv, int heads, Array<const float, 2> cos, Array<const float, 2> sin,
                   Array<const int32_t, 1> positions, Array<const int32_t, 1> slots,
                   Maybe<const float, 1> q_norm, Maybe<const float, 1> k_norm, float eps, Pages keys,
                   Pages values) {
  const auto [kv, kv_heads, d] = check_pages(keys, values, heads, qkv.shape(1));
  shape_is(cos, 1, d / 2, "cos");
  shape_is(sin, 1, d / 2, "sin");
  shape_is(sin, 0, cos.shape(0), "sin");
  shape_is(positions, 0, qkv.shape(0), "positions");
  shape_is(slots, 0, qkv.shape(0), "slots");
  if (q_norm) shape_is(*q_norm, 0, d, "q_norm");
  if (k_norm) shape_is(*k_norm, 0, d, "k_norm");
  values_within(positions, cos.shape(0), "positions");
  values_within(slots, keys.shape(0) * kPage, "slots");
  const RopeStore args{qkv.data(), qkv.shape(1), heads, kv_heads, d, cos.data(), sin.data(), positions.data(), slots.data(),
                       pointer(q_norm), pointer(k_norm), eps, keys.data(), values.data(), kv};
  const int rows = static_cast<int>(qkv.shape(0));
  nb::gil_scoped_release release;
  rope_store(args, rows);
}

void py_rotate(Array<float, 2> qkv, int heads, Array<const float, 2> cos, Array<const float, 2> sin,
               Array<const int32_t, 1> positions, Maybe<const float, 1> norm, float eps) {
  const size_t d = 2 * cos.shape(1);
  require(heads > 0 && d > 0 && d <= kMaxHeadDim && d % 16 == 0, "heads or cos do not fit");
  require(heads * d <= qkv.shape(1), "qkv has no room for so many heads");
  shape_is(sin, 0, cos.shape(0), "sin");
  shape_is(sin, 1, cos.shape(1), "sin");
  shape_is(positions, 0, qkv.shape(0), "positions");
  if (norm) shape_is(*norm, 0, d, "norm");
  values_within(positions, cos.shape(0), "positions");
  const RopeStore args{qkv.data(), qkv.shape(1), heads, 0, static_cast<int>(d), cos.data(), sin.data(),
                       positions.data(), nullptr, pointer(norm), nullptr, eps, nullptr, nullptr, KV::F32};
  const int rows = static_cast<int>(qkv.shape(0));
  nb::gil_scoped_release release;
  rope_store(args, rows);
}

void py_attention(Array<const float, 2> qkv, int heads, Pages keys, Pages values,
                  Array<const int32_t, 2> pages, Array<const int32_t, 1> starts,
                  Array<const int32_t, 1> positions, Array<float, 2> out, Maybe<float, 2> sums) {
  const auto [kv, kv_heads, d] = check_pages(keys, values, heads, qkv.shape(1));
  const int n = static_cast<int>(qkv.shape(0)), sequences = static_cast<int>(pages.shape(0));
  shape_is(out, 0, n, "out");
  shape_is(out, 1, static_cast<size_t>(heads) * d, "out");
  shape_is(positions, 0, n, "positions");
  if (sums) shape_is(*sums, 0, n, "sums"), shape_is(*sums, 1, heads, "sums");
  shape_is(starts, 0, sequences + 1, "starts");
  values_within(pages, keys.shape(0), "pages");
  values_within(positions, static_cast<int64_t>(pages.shape(1)) * kPage, "positions");
  require(starts.data()[0] == 0 && starts.data()[sequences] == n, "starts must run from 0 to the number of rows");
  for (int s = 0; s < sequences; ++s)
    require(starts.data()[s] <= starts.data()[s + 1], "starts must ascend");
  const Attention args{qkv.data(), static_cast<int>(qkv.shape(1)), out.data(), heads, kv_heads, d, keys.data(),
                       values.data(), kv, pages.data(), static_cast<int>(pages.shape(1)), starts.data(),
                       positions.data(), 1.0f / std::sqrt(static_cast<float>(d)), pointer(sums)};
  nb::gil_scoped_release release;
  attention(args, sequences);
}

std::vector<std::tuple<std::string, std::string, bool>> available() {
  std::vector<std::tuple<std::string, std::string, bool>> out;
  for (const Kernels* k : all_kernels()) out.emplace_back(k->name, missing_features(k->needs), k->selectable);
  return out;
}

}  // namespace

NB_MODULE(_native, m) {
  nb::class_<Packed>(m, "Packed")
      .def_prop_ro("n", &Packed::n)
      .def_prop_ro("k", &Packed::k)
      .def_prop_ro("bytes", &Packed::bytes)
      .def("set_next", &Packed::set_next, nb::arg("next"), nb::arg("pairs"))
      .def_prop_ro("segments", [](const Packed& p) {
        std::vector<std::pair<std::string, int>> out;
        for (const Segment& s : p.segments()) out.emplace_back(kind_name(s.kind), s.n);
        return out;
      });
  nb::class_<Bpe>(m, "Bpe")
      .def("__init__", &make_bpe, nb::arg("tokens").noconvert(), nb::arg("token_starts").noconvert(),
           nb::arg("merges").noconvert(), nb::arg("merge_starts").noconvert())
      .def("__len__", &Bpe::size)
      .def("token", &bpe_token, nb::arg("id"))
      .def("encode", &Bpe::encode, nb::arg("words"), nb::call_guard<nb::gil_scoped_release>());
  m.def("pack", &pack, nb::arg("matrices").noconvert(), nb::arg("mapped"),
        nb::rv_policy::take_ownership);
  nb::class_<MappedTiles>(m, "Mapping")
      .def(nb::init<int, size_t>(), nb::arg("file"), nb::arg("bytes"))
      .def("ask", [](const MappedTiles& map, size_t begin, size_t bytes) { map.within(begin, bytes).ask(begin, bytes); },
           nb::arg("begin"), nb::arg("bytes"), nb::call_guard<nb::gil_scoped_release>())
      .def("give_back", [](const MappedTiles& map, size_t begin, size_t bytes) { map.within(begin, bytes).give_back(begin, bytes); },
           nb::arg("begin"), nb::arg("bytes"), nb::call_guard<nb::gil_scoped_release>());
  m.def("pack_to", &pack_to, nb::arg("matrices").noconvert(), nb::arg("offsets"), nb::arg("out").noconvert(), nb::arg("mapped"));
  m.def("packed_at", &packed_at, nb::arg("matrices"), nb::arg("offsets"), nb::arg("mapping"), nb::rv_policy::take_ownership);
  m.def("packed_bytes", [](const std::vector<Shape>& shapes) { return Packed::bytes_of(shapes_of(shapes)); }, nb::arg("shapes"));
  m.attr("PACKING") = kPacking;
  m.def("matmul", &py_matmul, nb::arg("w"), nb::arg("x").noconvert(), nb::arg("out").noconvert(),
        nb::arg("bias").noconvert().none(), nb::arg("prompt"));
  m.def("matmul_argmax", &py_matmul_argmax, nb::arg("w"), nb::arg("x").noconvert(), nb::arg("columns"),
        nb::arg("out").noconvert());
  m.def("gather_rows", &py_gather_rows, nb::arg("type"), nb::arg("data").noconvert(), nb::arg("n"),
        nb::arg("ids").noconvert(), nb::arg("out").noconvert());
  m.def("unpack", &py_unpack, nb::arg("w"), nb::arg("out").noconvert());
  m.def("add_rms_norm", &py_add_rms_norm, nb::arg("x").noconvert(), nb::arg("delta").noconvert().none(),
        nb::arg("weight").noconvert(), nb::arg("eps"), nb::arg("out").noconvert());
  m.def("mlp", &py_mlp, nb::arg("gate_up"), nb::arg("down"), nb::arg("x").noconvert(), nb::arg("out").noconvert(),
        nb::arg("prompt"));
  nb::class_<ExpertSet>(m, "Experts")
      .def("__init__", &make_experts, nb::arg("parts"), nb::arg("shared"))
      .def_prop_ro("uses", [](const ExpertSet& set) {
        std::vector<int64_t> out;
        for (const auto& count : set.uses.rows) out.push_back(count);
        return out;
      })
      .def_prop_ro("calls", [](const ExpertSet& set) { return set.uses.calls.load(); })
      .def_prop_ro("taken", [](const ExpertSet& set) { return set.uses.taken.load(); })
      .def("chosen", &py_chosen, nb::arg("top"), nb::arg("logits").noconvert());
  m.def("experts", &py_experts, nb::arg("set"), nb::arg("top"), nb::arg("renormalize"), nb::arg("x").noconvert(),
        nb::arg("logits").noconvert(), nb::arg("out").noconvert(), nb::arg("prompt"));
  m.def("rope_store", &py_rope_store, nb::arg("qkv").noconvert(), nb::arg("heads"), nb::arg("cos").noconvert(),
        nb::arg("sin").noconvert(), nb::arg("positions").noconvert(), nb::arg("slots").noconvert(),
        nb::arg("q_norm").noconvert().none(), nb::arg("k_norm").noconvert().none(), nb::arg("eps"),
        nb::arg("keys").noconvert(), nb::arg("values").noconvert());
  m.def("attention", &py_attention, nb::arg("qkv").noconvert(), nb::arg("heads"), nb::arg("keys").noconvert(),
        nb::arg("values").noconvert(), nb::arg("pages").noconvert(), nb::arg("starts").noconvert(),
        nb::arg("positions").noconvert(), nb::arg("out").noconvert(), nb::arg("sums").noconvert().none());
  m.def("rotate", &py_rotate, nb::arg("qkv").noconvert(), nb::arg("heads"), nb::arg("cos").noconvert(),
        nb::arg("sin").noconvert(), nb::arg("positions").noconvert(), nb::arg("norm").noconvert().none(),
        nb::arg("eps"));
  m.def("isa", [] { return std::string(kernels().name); });
  m.def("available", &available);
  m.def("force", &force_kernels, nb::arg("name"));
  m.def("threads", &threads);
  m.def("set_threads", [](int n) {
    require(n >= 1 && n <= 1024, "threads must be between 1 and 1024");
    nb::gil_scoped_release release;
    set_threads(n);
  }, nb::arg("n"));
  m.def("read_bandwidth", [](size_t bytes) {
    nb::gil_scoped_release release;
    return read_bandwidth(bytes);
  }, nb::arg("bytes"));
  m.def("profile", &profile, nb::arg("on"));
  m.def("profiled", [] {
    std::vector<std::tuple<std::string, long, double, double, double>> out;
    for (const Profiled& p : profiled()) out.emplace_back(p.name, p.calls, p.seconds, p.bytes, p.operations);
    return out;
  });
  m.def("peak_rate", [] {
    nb::gil_scoped_release release;
    return peak_rate();
  });
}
