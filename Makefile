# make          builds build/cpu-bf16/, build/cpu-fp32/ and the launcher ./kintoun, and where nvcc
#               is found build/cuda-bf16/ and build/cuda-fp32/, too
# make run      the main job: data, training, pictures      make test    everything that must hold
# make bench    the benchmark programs                      make tidy    layers, limits, bans
# make gpu-check  everything that needs a GPU, on a machine with one
# make golden   runs the generators of tests/golden again (PYTHON with PyTorch)
# DEBUG=1 builds with the address and undefined-behaviour sanitizers, in build/debug-*;
# PRECISION=fp32|bf16 restricts what is built; NVCC=none leaves CUDA out; ARCHS="80 90 100" are the
# architectures. sh launch/setup installs what is missing.

MARCH ?= native
PYTHON ?= python3
CC = mpicc
CXX = g++
MAKEFLAGS += -j$(shell nproc)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
COMMON := -I. $(WARNINGS) -march=$(MARCH) -mprefer-vector-width=512 -ffp-contract=fast \
          -fno-math-errno -fopenmp -MMD -MP
CFLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L $(COMMON)
LIBS := -lyaml -lzstd -ljansson -lpng -lz -lxxhash -lpthread -lm
FAST := -O3 -g1
SAFE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

# What is the same for all backends is compiled once per precision: build/fp32/, build/bf16/.
FOLDERS := base parallel model data checkpoint train
SOURCES := $(shell find $(FOLDERS) -name '*.c' ! -path '*/cuda/*' ! -path '*/cpu/*' | sort)
LIBRARY := $(filter-out train/main.c,$(SOURCES))
CPU := $(shell find $(FOLDERS) -path '*/cpu/*' -name '*.c' | sort)
CUDA := $(shell find $(FOLDERS) -path '*/cuda/*' \( -name '*.c' -o -name '*.cu' \) | sort)
EMULATOR := $(wildcard tests/emulator/*.cpp tests/emulator/*.c)
# What the emulator does not run: the files above cuDNN have a twin there.
EMULATED := $(filter-out model/ops/cuda/attention_cudnn%,$(CUDA))

TESTS := $(wildcard tests/test_*.c)
NO_FP32 := $(shell grep -l '^// precision:' $(TESTS) /dev/null | \
             xargs -r grep -L 'precision:.*fp32')
TESTS_fp32 := $(filter-out $(NO_FP32),$(TESTS))
TESTS_bf16 := $(shell grep -l '^// precision:.*bf16' $(TESTS) /dev/null)
TESTS_safe := $(filter-out $(shell grep -l '^// sanitize: no' $(TESTS) /dev/null),$(TESTS_fp32))
TESTS_device := $(shell grep -l '^// backends:' $(TESTS) /dev/null)
TESTS_safe_bf16 := $(shell grep -l '^// sanitize: bf16' $(TESTS) /dev/null)
BENCHES := $(patsubst %.c,%,$(wildcard bench/*.c))

PRECISIONS := $(or $(PRECISION),bf16 fp32)
BUILDS := $(PRECISIONS:%=build/$(if $(DEBUG),debug-)cpu-%)

.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all run test tests tests-safe tests-cuda emulator bench tidy format golden gpu-check \
        gpu-programs clean look-again

all: $(BUILDS:%=%/kintoun) kintoun

# Where CUDA is. While something of it is missing, every make looks again (MAKE_RESTARTS: it has).
MISSING := $(if $(MAKE_RESTARTS),,$(shell grep -ls CUDA_MISSING build/cuda.mk))
build/cuda.mk: launch/find-cuda $(MISSING:%=look-again)
	@mkdir -p build
	@NVCC="$(filter-out none,$(NVCC))" sh launch/find-cuda >$@
-include build/cuda.mk
ifneq ($(NVCC),)
ifneq ($(NVCC),none)
BUILDS_CUDA := $(if $(DEBUG),,$(PRECISIONS:%=build/cuda-%))
endif
endif
all: $(BUILDS_CUDA:%=%/kintoun)

NVCC_FLAGS := -std=c++17 -O3 -I. -lineinfo -MMD -MP -Werror all-warnings \
    -Xcompiler -Wall,-Wextra,-Werror,-fopenmp,-march=$(MARCH) $(CUDA_INCLUDES) \
    $(foreach a,$(ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
    $(foreach a,$(lastword $(ARCHS)),-gencode arch=compute_$(a),code=compute_$(a))
EMULATE := -I tests/emulator -U_FORTIFY_SOURCE
# C++ has other rules than C for what -Wconversion and -Wpedantic mind, g++ does not know nvcc's
# unroll, and the dynamic shared array (thread_local there) has no initialiser to call.
CXXFLAGS := -std=c++17 -I. -Wall -Wextra -Werror -Wno-unknown-pragmas -fno-extern-tls-init \
            -march=$(MARCH) -fopenmp -MMD -MP

# $(1): name of the build, $(2): how to optimise, $(3): definitions. The demo's data do not follow
# what is built for: no product is added to a sum before it is rounded.
define rules_common
build/$(1)/data/demo/%.o: CFLAGS += -ffp-contract=off
build/$(1)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	@echo "cc $$@"
	@$$(CC) $$(CFLAGS) $(2) $(3) -c $$< -o $$@
build/$(1)/libcommon.a: $(LIBRARY:%.c=build/$(1)/%.o)
	@rm -f $$@
	@ar rcs $$@ $$^
endef
$(eval $(call rules_common,fp32,$(FAST),))
$(eval $(call rules_common,bf16,$(FAST),-DREAL_BF16))
$(eval $(call rules_common,debug-fp32,$(SAFE),))
$(eval $(call rules_common,debug-bf16,$(SAFE),-DREAL_BF16))

# $(1): backend, $(2): name of the common build, $(3): how to optimise, $(4): definitions,
# $(5): objects of the backend, $(6): its libraries, $(7): prefix of the folder.
define rules_backend
build/$(7)$(1)-$(2)/libbackend.a: $(5:%=build/$(7)$(1)-$(2)/%)
	@rm -f $$@
	@ar rcs $$@ $$^
build/$(7)$(1)-$(2)/kintoun: build/$(7)$(2)/train/main.o build/$(7)$(1)-$(2)/libbackend.a \
                             build/$(7)$(2)/libcommon.a
	@echo "link $$@"
	@$$(CC) $(3) -fopenmp $$< $(call group,$(1),$(2),$(7)) $(6) $$(LIBS) -o $$@
build/$(7)$(1)-$(2)/tests/test_%: build/$(7)$(2)/tests/test_%.o build/$(7)$(2)/tests/check.o \
                                  build/$(7)$(1)-$(2)/libbackend.a build/$(7)$(2)/libcommon.a
	@mkdir -p $$(@D)
	@$$(CC) $(3) -fopenmp $$(filter %.o,$$^) $(call group,$(1),$(2),$(7)) $(6) $$(LIBS) \
	    -lcmocka -o $$@
build/$(7)$(1)-$(2)/bench/%: build/$(7)$(2)/bench/%.o build/$(7)$(1)-$(2)/libbackend.a \
                             build/$(7)$(2)/libcommon.a
	@mkdir -p $$(@D)
	@$$(CC) $(3) -fopenmp $$< $(call group,$(1),$(2),$(7)) $(6) $$(LIBS) -o $$@
endef
group = -Wl,--start-group build/$(3)$(1)-$(2)/libbackend.a build/$(3)$(2)/libcommon.a \
        -Wl,--end-group

# $(1): folder, $(2): how to optimise, $(3): definitions.
define rules_cpu
build/$(1)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	@echo "cc $$@"
	@$$(CC) $$(CFLAGS) $(2) $(3) -c $$< -o $$@
endef
define rules_cuda
build/$(1)/%.o: %.c Makefile build/cuda.mk
	@mkdir -p $$(@D)
	@echo "cc $$@"
	@$$(CC) $$(CFLAGS) $$(CUDA_INCLUDES) $(2) $(3) -c $$< -o $$@
build/$(1)/%.cu.o: %.cu Makefile build/cuda.mk
	@mkdir -p $$(@D)
	@echo "nvcc $$@"
	@$$(NVCC) $$(NVCC_FLAGS) $(3) -c $$< -o $$@
endef
define rules_emulator
build/$(1)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	@echo "cc $$@"
	@$$(CC) $$(CFLAGS) $$(EMULATE) $(2) $(3) -c $$< -o $$@
build/$(1)/%.cu.o: %.cu Makefile
	@mkdir -p $$(@D)
	@echo "c++ $$@"
	@$$(CXX) $$(CXXFLAGS) $$(EMULATE) $(2) $(3) -x c++ -c $$< -o $$@
build/$(1)/%.cpp.o: %.cpp Makefile
	@mkdir -p $$(@D)
	@echo "c++ $$@"
	@OMPI_CXX="$$(CXX)" mpicxx $$(CXXFLAGS) $$(EMULATE) $(2) $(3) -c $$< -o $$@
endef
# $(1): prefix of the folder, $(2): how to optimise.
define rule_faults
build/$(1)emulator-fp32/tests/faults: build/$(1)emulator-fp32/tests/emulator/faults.cu.o \
                                      build/$(1)emulator-fp32/libbackend.a \
                                      build/$(1)fp32/libcommon.a
	@mkdir -p $$(@D)
	@$$(CC) $(2) -fopenmp $$< $(call group,emulator,fp32,$(1)) -lstdc++ $$(LIBS) -o $$@
endef
$(eval $(call rule_faults,,$(FAST)))
$(eval $(call rule_faults,debug-,$(SAFE)))
# Programs of tests/test_cudnn.sh: what cuDNN is given, in the emulator; its plans, without a device
# and otherwise on the CPU backend.
build/emulator-fp32/tests/cudnn/offsets: build/fp32/tests/cudnn/offsets.o \
                                         build/emulator-fp32/libbackend.a build/fp32/libcommon.a
	@mkdir -p $(@D)
	@$(CC) -fopenmp $< $(call group,emulator,fp32,) -lstdc++ $(LIBS) -o $@
build/cuda-fp32/tests/cudnn/plans: build/fp32/tests/cudnn/plans.o \
                                   $(addprefix build/cuda-fp32/model/ops/cuda/, \
                                       attention_cudnn.o attention_cudnn_plan.o \
                                       attention_offsets.cu.o) \
                                   build/cpu-fp32/libbackend.a build/fp32/libcommon.a
	@mkdir -p $(@D)
	@$(CC) -fopenmp $(filter %.o,$^) $(call group,cpu,fp32,) $(CUDA_PATHS) $(CUDA_LIBRARIES) \
	    -ldnnl $(LIBS) -o $@
objects = $(patsubst %.cpp,%.cpp.o,$(patsubst %.cu,%.cu.o,$(patsubst %.c,%.o,$(1))))

# $(1): precision, $(2): how to optimise, $(3): definitions, $(4): prefix.
define backends
$(call rules_cpu,$(4)cpu-$(1),$(2),$(3))
$(call rules_backend,cpu,$(1),$(2),$(3),$(call objects,$(CPU)),-ldnnl,$(4))
$(call rules_emulator,$(4)emulator-$(1),$(2),$(3))
$(call rules_backend,emulator,$(1),$(2),$(3),$(call objects,$(EMULATED) $(EMULATOR)),-lstdc++,$(4))
endef
$(eval $(call backends,fp32,$(FAST),,))
$(eval $(call backends,bf16,$(FAST),-DREAL_BF16,))
$(eval $(call backends,fp32,$(SAFE),,debug-))
$(eval $(call backends,bf16,$(SAFE),-DREAL_BF16,debug-))
# $(1): precision, $(2): definitions.
define backend_cuda
$(call rules_cuda,cuda-$(1),$(FAST),$(2))
$(call rules_backend,cuda,$(1),$(FAST),$(2),$(call objects,$(CUDA)),$$(CUDA_PATHS) \
    $$(CUDA_LIBRARIES),)
endef
$(eval $(call backend_cuda,fp32,))
$(eval $(call backend_cuda,bf16,-DREAL_BF16))

# The small program that picks the build that fits this machine and the settings.
LAUNCHER := $(addprefix build/fp32/,launch/kintoun.o base/settings.o base/setting_value.o \
                                    base/utf8.o base/error.o base/die.o)
kintoun: $(LAUNCHER)
	@$(CC) $^ -lyaml -o $@

tests: $(foreach p,$(PRECISIONS),$(TESTS_$(p):%.c=build/$(if $(DEBUG),debug-)cpu-$(p)/%))
tests-safe: $(TESTS_safe:%.c=build/debug-cpu-fp32/%) build/debug-cpu-fp32/kintoun
tests-cuda: $(if $(BUILDS_CUDA),$(foreach p,$(PRECISIONS), \
              $(filter $(TESTS_$(p):%.c=build/cuda-$(p)/%), \
                  $(TESTS_device:%.c=build/cuda-$(p)/%))))
emulator: $(foreach p,$(PRECISIONS),build/emulator-$(p)/kintoun \
              $(filter $(TESTS_$(p):%.c=build/emulator-$(p)/%), \
                  $(TESTS_device:%.c=build/emulator-$(p)/%))) \
          $(TESTS_device:%.c=build/debug-emulator-fp32/%) \
          $(TESTS_safe_bf16:%.c=build/debug-emulator-bf16/%) \
          build/emulator-fp32/tests/faults build/debug-emulator-fp32/tests/faults \
          build/emulator-fp32/tests/cudnn/offsets
bench: $(foreach b,$(BUILDS) $(BUILDS_CUDA),$(BENCHES:%=$(b)/%))

run: all
	@sh launch/demo

test: all tests tests-safe tests-cuda emulator bench \
      $(if $(BUILDS_CUDA),build/cuda-fp32/tests/cudnn/plans)
	@sh tests/run.sh

# What the check of a GPU runs; nothing of the CPU backend, whose libraries may not be there.
gpu-programs: kintoun $(BUILDS_CUDA:%=%/kintoun) tests-cuda \
              $(foreach b,$(BUILDS_CUDA),$(BENCHES:%=$(b)/%))

gpu-check:
	@bash tests/gpu/check.sh

tidy:
	@sh tests/tidy.sh

format:
	@clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cpp')

golden:
	@for script in tests/golden/*.py; do echo "$$script" && $(PYTHON) "$$script" || exit 1; done

clean:
	rm -rf build kintoun

-include $(shell find build -name '*.d' 2>/dev/null)
