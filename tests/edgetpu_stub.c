/* A stand-in for libedgetpu, for tests: the entry points of edgetpu_c.h and of an external delegate (TensorFlow Lite,
 * external_delegate_interface.h), and of the structures of tensorflow/lite/core/c/common.h as much as they need.
 *
 * It takes every operator `edgetpu-custom-op` and fills its n-th output with the first byte of its input, plus n.
 * LF_STUB says how it misbehaves, LF_STUB_LOG names a file to which it writes what is done to it.
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { int size; int data[]; } IntArray;

typedef struct {
  int type;
  void* data;
  IntArray* dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  void* delegate;
  int buffer_handle;
  _Bool data_is_stale, is_variable;
  struct { int type; void* params; } quantization;
  void* sparsity;
  const IntArray* dims_signature;
} Tensor;

typedef struct {
  IntArray *inputs, *outputs, *intermediates, *temporaries;
  void *user_data, *builtin_data;
} Node;

typedef struct Context Context;
typedef struct Delegate Delegate;

typedef struct {
  void* (*init)(Context*, const char*, size_t);
  void (*free)(Context*, void*);
  int (*prepare)(Context*, Node*);
  int (*invoke)(Context*, Node*);
  const char* (*profiling_string)(const Context*, const Node*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
} Registration;

struct Context {
  size_t tensors_size;
  int (*GetExecutionPlan)(Context*, IntArray**);
  Tensor* tensors;
  void* impl;
  int (*ResizeTensor)(Context*, Tensor*, IntArray*);
  void (*ReportError)(Context*, const char*, ...);
  int (*AddTensors)(Context*, int, int*);
  int (*GetNodeAndRegistration)(Context*, int, Node**, Registration**);
  int (*ReplaceNodeSubsetsWithDelegateKernels)(Context*, Registration, const IntArray*, Delegate*);
}; /* what follows is not used here */

struct Delegate {
  void* data;
  int (*Prepare)(Context*, Delegate*);
  int (*CopyFromBufferHandle)(Context*, Delegate*, int, Tensor*);
  int (*CopyToBufferHandle)(Context*, Delegate*, int, Tensor*);
  void (*FreeBufferHandle)(Context*, Delegate*, int*);
  int64_t flags;
  void* opaque_delegate_builder;
};

static int is(const char* what) {
  const char* mode = getenv("LF_STUB");
  return mode && strcmp(mode, what) == 0;
}

static void note(const char* format, ...) {
  const char* path = getenv("LF_STUB_LOG");
  FILE* file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  va_list rest;
  va_start(rest, format);
  vfprintf(file, format, rest);
  va_end(rest);
  fputc('\n', file);
  fclose(file);
}

static void* init(Context* context, const char* buffer, size_t length) {
  (void)context, (void)buffer, (void)length;
  note("init");
  return malloc(1);
}

static void release(Context* context, void* data) {
  (void)context;
  note("free");
  free(data);
}

static int prepare(Context* context, Node* node) {
  (void)node;
  note("prepare");
  if (is("crash in prepare")) *(volatile int*)0 = 1;
  if (is("refuse in prepare")) {
    context->ReportError(context, "Package requires runtime version (15), which is newer than this runtime version (14).");
    return 1;
  }
  return 0;
}

static int invoke(Context* context, Node* node) {
  note("invoke");
  if (is("abort in invoke")) abort();
  const int8_t value = *(int8_t*)context->tensors[node->inputs->data[0]].data;
  for (int n = 0; n < node->outputs->size; ++n) {
    Tensor* output = &context->tensors[node->outputs->data[n]];
    memset(output->data, value + n, output->bytes);
  }
  return 0;
}

static int take(Context* context, Delegate* delegate) {
  IntArray* plan;
  if (context->GetExecutionPlan(context, &plan)) return 1;
  for (int n = 0; n < plan->size; ++n) {
    Node* node;
    Registration* code;
    const int index = plan->data[n];
    if (context->GetNodeAndRegistration(context, index, &node, &code)) return 1;
    if (is("take nothing") || !code->custom_name || strcmp(code->custom_name, "edgetpu-custom-op")) continue;
    const Registration kernel = {init, release, prepare, invoke, NULL, 0, "EdgeTpuStub", 1, NULL, NULL, 0};
    IntArray* nodes = malloc(sizeof(IntArray) + sizeof(int));
    nodes->size = 1;
    nodes->data[0] = index;
    const int failed = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, nodes, delegate);
    free(nodes);
    if (failed) return 1;
  }
  return 0;
}

Delegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count, void (*report)(const char*)) {
  (void)report;
  note("create%s%s%s%s", count ? " " : "", count ? keys[0] : "", count ? "=" : "", count ? values[0] : "");
  if (is("refuse")) return NULL; /* without a word, as libedgetpu does */
  Delegate* made = calloc(1, sizeof(Delegate));
  made->Prepare = take;
  made->flags = 1; /* dynamic tensors allowed */
  return made;
}

void tflite_plugin_destroy_delegate(Delegate* delegate) {
  note(delegate ? "destroy" : "destroy nothing");
  free(delegate);
}

#ifndef NO_EDGETPU
typedef struct { int type; const char* path; } Device;

const char* edgetpu_version(void) {
  return is("other version") ? "stub 1" : "BuildLabel(stub), RuntimeVersion(14)";
}

Device* edgetpu_list_devices(size_t* count) {
  static Device found[] = {{1, "/stub/usb"}, {0, "/stub/pci"}};
  if (is("hang")) sleep(600);
  *count = is("no devices") ? 0 : 2;
  return *count ? found : NULL;
}

void edgetpu_free_devices(Device* devices) { (void)devices; note("devices freed"); }

void edgetpu_verbosity(int level) { (void)level; }
#endif
