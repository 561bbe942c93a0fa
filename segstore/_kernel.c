/* The loops that decide what a record costs, a second time, in C.

   The specification is Python: columns.py, framejoin.py, pointread.py and smallframes.py in
   segstore/format (the functions) and segstore/segment/tailbuffer.py (TailBuffer). What stands here
   gives the same results, and the same errors to whoever uses a log; nothing on disk depends on
   which of the two ran.

   Rule 1: a function here answers only what it has proven plain and well formed. Anything else
           (another type, an offset out of its bounds, a size too large) it hands to the
           specification, which finds the answer or the error. So there is one place that says
           what is wrong, and hostile bytes never get further than a comparison here.
   Rule 2: bytes may change while they are read (a mapping that another process writes to), so
           each number is read once, and what was checked is what is used.
   Rule 3: everything runs under the GIL and calls no Python code between a check and the store
           that rests on it. That is what makes the append safe without a lock, and why the module
           has no Py_mod_gil: a free-threaded Python then turns the GIL on to load it. The one
           system call lets go of the GIL, and touches nothing meanwhile but memory on the
           stack.
   Rule 4: an allocation may start the garbage collector, which may run anything. Whatever is
           borrowed from a list is owned before the next allocation, and its size asked again. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>
#include <time.h>
#include <unistd.h>

#if SIZEOF_SIZE_T < 8
#error "two columns of up to 2 GiB are added up in Py_ssize_t"
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernel stores numbers as they are in memory, and the format is little-endian"
#endif

/* Through void (*)(void), because a method may have any of several types. */
#define METHOD(function) ((PyCFunction)(void (*)(void))(function))

enum {
    DECODE_HEAD,
    ITER_COLUMN,
    ITER_RECORDS,
    JOIN_FRAME,
    JOIN_WHOLE,
    MEASURE,
    READ_RECORD,
    TAKE_RECORDS,
    FUNCTION_COUNT
};
/* And where the specification of each stands. */
static const struct {
    const char *name, *home;
} functions[] = {
    [DECODE_HEAD] = {"decode_head", "segstore.format.pointread"},
    [ITER_COLUMN] = {"iter_column", "segstore.format.columns"},
    [ITER_RECORDS] = {"iter_records", "segstore.format.columns"},
    [JOIN_FRAME] = {"join_frame", "segstore.format.framejoin"},
    [JOIN_WHOLE] = {"join_whole", "segstore.format.framejoin"},
    [MEASURE] = {"measure", "segstore.format.columns"},
    [READ_RECORD] = {"read_record", "segstore.format.pointread"},
    [TAKE_RECORDS] = {"take_records", "segstore.format.smallframes"},
};

typedef struct {
    PyObject *specification[FUNCTION_COUNT];
    PyTypeObject *record_type; /* the last one found plain */
    PyTypeObject *column_iterator;
    PyTypeObject *record_iterator;
} KernelState;

static inline KernelState *
state_of(PyObject *module)
{
    return (KernelState *)PyModule_GetState(module);
}

/* Rule 1: let Python answer, and find any error once more; but for an interrupt, and a lack of
   memory, which may be over by then. */
static PyObject *
hand_over(PyObject *module, int function, PyObject *const *args, Py_ssize_t nargs)
{
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception) ||
            PyErr_ExceptionMatches(PyExc_MemoryError)) {
            return NULL;
        }
        PyErr_Clear();
    }
    return PyObject_Vectorcall(state_of(module)->specification[function], args, (size_t)nargs,
                               NULL);
}

/* ------------------------------------------------------------------------------------------ */
/* CRC-32C of whole 8-byte words: frames are padded to them.                                   */

#define CRC_POLYNOMIAL 0x82F63B78u
#define WORD_BYTES 8
/* Three of these and two words are a block of values. */
#define LANE_WORDS_MAX 170

typedef uint32_t (*CrcFunction)(uint32_t crc, const unsigned char *data, size_t size);

static uint32_t crc_table[8][256];

static inline uint64_t
load_word(const unsigned char *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

/* Eight bytes a step, by table ("slicing by 8"). */
static uint32_t
crc_portable(uint32_t crc, const unsigned char *data, size_t size)
{
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word = load_word(data) ^ crc;
        crc = 0;
        for (int i = 0; i < 8; i++) {
            crc ^= crc_table[7 - i][word >> (8 * i) & 255];
        }
    }
    return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <wmmintrin.h>
#define HAS_CRC_HARDWARE 1
#define CRC_TARGET __attribute__((target("sse4.2,pclmul")))
#define CRC_STEP(crc, word) _mm_crc32_u64(crc, word)
#define CRC_MULTIPLY(crc, power)                                                                \
    ((uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(                                          \
        _mm_cvtsi64_si128((long long)(crc)), _mm_cvtsi64_si128((long long)(power)), 0)))
static bool
can_use_crc_hardware(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32) && defined(__ARM_FEATURE_AES)
#include <arm_acle.h>
#include <arm_neon.h>
#define HAS_CRC_HARDWARE 1
#define CRC_TARGET
#define CRC_STEP(crc, word) __crc32cd((uint32_t)(crc), word)
#define CRC_MULTIPLY(crc, power) ((uint64_t)vmull_p64((poly64_t)(crc), (poly64_t)(power)))
static bool
can_use_crc_hardware(void)
{
    return true; /* the compiler was told that every target machine has it */
}
#endif

#ifdef HAS_CRC_HARDWARE
/* What moves a CRC on by so many words of zeros: x^(64 n - 33), as the product of two reflected
   numbers is one bit short of 64, and the step that reduces it multiplies by x^32. */
static uint32_t lane_powers[2 * LANE_WORDS_MAX + 1];

/* The instruction takes three cycles and starts every cycle, so that three lanes go side by side
   and are then put together (Gopal et al., Fast CRC Computation for iSCSI Polynomial Using CRC32
   Instruction, Intel 2011). */
CRC_TARGET static uint32_t
crc_hardware(uint32_t crc, const unsigned char *data, size_t size)
{
    uint64_t first = crc;
    size_t words = size / 8;
    while (words >= 9) {
        size_t lane = words / 3 < LANE_WORDS_MAX ? words / 3 : LANE_WORDS_MAX;
        uint64_t second = 0, third = 0;
        for (const unsigned char *end = data + 8 * lane; data < end; data += 8) {
            first = CRC_STEP(first, load_word(data));
            second = CRC_STEP(second, load_word(data + 8 * lane));
            third = CRC_STEP(third, load_word(data + 16 * lane));
        }
        first = CRC_MULTIPLY(first, lane_powers[2 * lane]) ^
                CRC_MULTIPLY(second, lane_powers[lane]);
        first = CRC_STEP(0, first) ^ third;
        data += 16 * lane;
        words -= 3 * lane;
    }
    for (; words > 0; data += 8, words--) {
        first = CRC_STEP(first, load_word(data));
    }
    return (uint32_t)first;
}
#endif

static CrcFunction crc_words = crc_portable;

static uint32_t
crc32c(const unsigned char *data, size_t size)
{
    return ~crc_words(~0u, data, size);
}

static void
prepare_crc(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? CRC_POLYNOMIAL : 0);
        }
        crc_table[0][byte] = crc;
    }
    for (int step = 1; step < 8; step++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t crc = crc_table[step - 1][byte];
            crc_table[step][byte] = crc >> 8 ^ crc_table[0][crc & 255];
        }
    }
#ifdef HAS_CRC_HARDWARE
    static const unsigned char zeros[WORD_BYTES];
    lane_powers[1] = 1; /* x^31, reflected */
    for (int words = 2; words <= 2 * LANE_WORDS_MAX; words++) {
        lane_powers[words] = crc_portable(lane_powers[words - 1], zeros, WORD_BYTES);
    }
    if (can_use_crc_hardware()) {
        crc_words = crc_hardware;
    }
#endif
}

PyDoc_STRVAR(crc32c_of_doc,
             "crc32c_of($module, data, /, *, portable=False)\n--\n\n"
             "CRC-32C as the append computes it; the size of `data` is a multiple of 8.\n\n"
             "For the tests: `portable` picks the tables even where there is an instruction.");

static PyObject *
crc32c_of(PyObject *Py_UNUSED(module), PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "portable", NULL};
    Py_buffer data;
    int portable = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y*|$p", names, &data, &portable)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (data.len % 8) {
        PyErr_SetString(PyExc_ValueError, "the size is not a multiple of 8");
    }
    else {
        CrcFunction function = portable ? crc_portable : crc_words;
        result = PyLong_FromUnsignedLong(~function(~0u, data.buf, (size_t)data.len));
    }
    PyBuffer_Release(&data);
    return result;
}

/* ------------------------------------------------------------------------------------------ */
/* Columns                                                                                     */

/* Whether it is an int, of no subclass, that fits 64 bits. */
static inline bool
is_int64(PyObject *number, int64_t *found)
{
    int overflow = 1;
    *found = PyLong_CheckExact(number) ? PyLong_AsLongLongAndOverflow(number, &overflow) : 0;
    return !overflow;
}

/* Whether a buffer, opened with its format, is a row of 8-byte numbers of that format. */
static bool
is_column_of(const Py_buffer *buffer, const char *format)
{
    return buffer->ndim == 1 && buffer->itemsize == 8 && buffer->format != NULL &&
           strcmp(buffer->format, format) == 0;
}

/* Bytes as a memoryview of int64; takes the reference over. */
static PyObject *
as_numbers(PyObject *bytes)
{
    PyObject *view = PyMemoryView_FromObject(bytes);
    Py_DECREF(bytes);
    if (view == NULL) {
        return NULL;
    }
    PyObject *numbers = PyObject_CallMethod(view, "cast", "s", "q");
    Py_DECREF(view);
    return numbers;
}

PyDoc_STRVAR(measure_doc, "measure($module, values, /)\n--\n\n"
                          "As segstore.format.columns.measure; the numbers are int64.");

/* How many items ahead to ask for: each is somewhere else in memory, and new to the cache here. */
#define PREFETCH_COUNT 12

static inline void
ask_ahead(PyObject *items, Py_ssize_t index, Py_ssize_t stop)
{
    if (index + PREFETCH_COUNT < stop) {
        const char *later = (const char *)PyList_GET_ITEM(items, index + PREFETCH_COUNT);
        for (int line = 0; line < 3; line++) {
            __builtin_prefetch(later + 64 * line);
        }
    }
}

static PyObject *
measure(PyObject *module, PyObject *values)
{
    if (!PyList_CheckExact(values)) {
        return hand_over(module, MEASURE, &values, 1);
    }
    Py_ssize_t count = PyList_GET_SIZE(values);
    PyObject *ends = PyBytes_FromStringAndSize(NULL, 8 * (count + 1));
    if (ends == NULL) {
        return NULL;
    }
    char *at = PyBytes_AS_STRING(ends);
    int64_t end = 0;
    memcpy(at, &end, 8);
    for (Py_ssize_t i = 0; i < count; i++) {
        ask_ahead(values, i, count);
        PyObject *value = PyList_GET_ITEM(values, i);
        if (!PyBytes_CheckExact(value)) {
            Py_DECREF(ends);
            Py_RETURN_NONE;
        }
        end += PyBytes_GET_SIZE(value);
        memcpy(at + 8 * (i + 1), &end, 8);
    }
    /* Not a copy: nothing here relies on the list staying as it is, and to take a reference to each
       value would write to a thousand places in memory. */
    return Py_BuildValue("ON", values, as_numbers(ends));
}

/* A buffer, to where it stays: its shape may point into the Py_buffer itself, so that no copy of it
   may be given back. False with an exception, and then there is nothing to release. */
static bool
get_buffer(Py_buffer *buffer, PyObject *object, int flags)
{
    if (PyObject_GetBuffer(object, buffer, flags) < 0) {
        buffer->obj = NULL;
        return false;
    }
    return true;
}

/* The timestamps column as it is passed: one number, a list of them, or int64 in a buffer. */
typedef struct {
    PyObject *same;
    PyObject *list;
    Py_buffer buffer; /* .obj is NULL where there is none */
    Py_ssize_t count; /* of the list or in the buffer */
} Times;

/* False, perhaps with an exception, where it is none of these. */
static bool
open_times(Times *times, PyObject *timestamps)
{
    times->same = times->list = times->buffer.obj = NULL;
    times->count = 0;
    if (PyLong_Check(timestamps)) {
        times->same = timestamps;
        return true;
    }
    if (PyList_CheckExact(timestamps)) {
        times->list = timestamps;
        times->count = PyList_GET_SIZE(timestamps);
        return true;
    }
    if (!get_buffer(&times->buffer, timestamps, PyBUF_CONTIG_RO | PyBUF_FORMAT)) {
        return false;
    }
    times->count = times->buffer.len / 8;
    return is_column_of(&times->buffer, "q");
}

static inline int64_t
stored_time(const Times *times, Py_ssize_t index)
{
    int64_t time;
    memcpy(&time, (const char *)times->buffer.buf + 8 * index, sizeof time);
    return time;
}

/* The lowest and the highest of some timestamps; false where one is not plain. */
static bool
time_range(const Times *times, Py_ssize_t start, Py_ssize_t stop, int64_t *lowest,
           int64_t *highest)
{
    if (times->same != NULL) {
        bool is_plain = is_int64(times->same, lowest);
        *highest = *lowest;
        return is_plain;
    }
    if (stop > times->count) {
        return false;
    }
    *lowest = INT64_MAX;
    *highest = INT64_MIN;
    for (Py_ssize_t i = start; i < stop; i++) {
        int64_t time;
        if (times->list == NULL) {
            time = stored_time(times, i);
        }
        else if (!is_int64(PyList_GET_ITEM(times->list, i), &time)) {
            return false;
        }
        *lowest = time < *lowest ? time : *lowest;
        *highest = time > *highest ? time : *highest;
    }
    return true;
}

/* Zeros behind a column of that size, which ends at `end`. */
static inline void
pad(char *end, Py_ssize_t size)
{
    memset(end, 0, (size_t)(-size & 7));
}

typedef struct __attribute__((packed, may_alias)) {
    int32_t value;
} UnalignedInt32;

/* One read, whatever the compiler would like (rule 2). */
static inline int32_t
read_once(const char *at)
{
    return ((const volatile UnalignedInt32 *)at)->value;
}

/* The values of a column, each made when it is asked for: one that is used up by then is still in
   the cache, and its memory is that of the next but one. */
typedef struct {
    PyObject_HEAD
    Py_buffer data;
    const char *offset_at; /* where the next value ends */
    const char *column;
    Py_ssize_t left;
    Py_ssize_t limit;
    int32_t at;
} ColumnIterator;

static PyObject *
ColumnIterator_next(ColumnIterator *self)
{
    if (self->left == 0) {
        return NULL;
    }
    int32_t at = self->at, end = read_once(self->offset_at);
    if (end < at || end > self->limit) { /* rule 2: it did not say so a while ago */
        PyErr_SetString(PyExc_ValueError, "a column changed while it was read");
        return NULL;
    }
    self->at = end;
    self->offset_at += 4;
    self->left--;
    return PyBytes_FromStringAndSize(self->column + at, end - at);
}

static PyObject *
ColumnIterator_left(ColumnIterator *self, PyObject *Py_UNUSED(nothing))
{
    return PyLong_FromSsize_t(self->left);
}

static void
ColumnIterator_dealloc(ColumnIterator *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyBuffer_Release(&self->data);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef column_iterator_methods[] = {
    {"__length_hint__", METHOD(ColumnIterator_left), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot column_iterator_slots[] = {
    {Py_tp_dealloc, ColumnIterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, ColumnIterator_next},
    {Py_tp_methods, column_iterator_methods},
    {0, NULL},
};

/* Not for the collector: it refers to bytes. */
static PyType_Spec column_iterator_spec = {
    .name = "segstore._kernel.ColumnIterator",
    .basicsize = sizeof(ColumnIterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = column_iterator_slots,
};

/* Set up over its buffer; false if the column is not well formed. */
static bool
open_column(ColumnIterator *self, Py_ssize_t offsets_position, Py_ssize_t start, Py_ssize_t stop,
            Py_ssize_t position)
{
    const Py_buffer *data = &self->data;
    Py_ssize_t size = data->len;
    if (data->ndim != 1 || data->itemsize != 1 || offsets_position < 0 ||
        offsets_position > size || start < 0 || stop < start || position < 0 || position > size ||
        stop >= (size - offsets_position) / 4) {
        return false;
    }
    const char *offset_at = (const char *)data->buf + offsets_position + 4 * start;
    self->offset_at = offset_at + 4;
    self->column = (const char *)data->buf + position;
    self->left = stop - start;
    self->limit = size - position;
    self->at = read_once(offset_at);
    /* Here any number of reads will do, as each is checked once more when it is used. */
    const UnalignedInt32 *offsets = (const UnalignedInt32 *)offset_at;
    bool rises = true;
    for (Py_ssize_t i = 0; i < self->left; i++) {
        rises &= offsets[i].value <= offsets[i + 1].value;
    }
    return rises && self->at >= 0 && (start > 0 || self->at == 0) &&
           offsets[self->left].value <= self->limit;
}

PyDoc_STRVAR(iter_column_doc,
             "iter_column($module, data, offsets_position, start, stop, position, /)\n--\n\n"
             "As segstore.format.columns.iter_column.");

static PyObject *
iter_column(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t offsets_position, start, stop, position;
    if (nargs != 5 || !is_int64(args[1], &offsets_position) || !is_int64(args[2], &start) ||
        !is_int64(args[3], &stop) || !is_int64(args[4], &position)) {
        return hand_over(module, ITER_COLUMN, args, nargs);
    }
    ColumnIterator *values = PyObject_New(ColumnIterator, state_of(module)->column_iterator);
    if (values == NULL) {
        return NULL;
    }
    if (!get_buffer(&values->data, args[0], PyBUF_CONTIG_RO) ||
        !open_column(values, offsets_position, start, stop, position)) {
        Py_DECREF(values);
        return hand_over(module, ITER_COLUMN, args, nargs);
    }
    return (PyObject *)values;
}

/* Whether instances are tuples of four items and nothing else, so that they can be made here; false
   perhaps with an exception. */
static bool
is_plain_record_type(PyObject *candidate)
{
    /* What a tuple has beside its items changes with the version: 3.15 is the last one known. */
    if (PY_VERSION_HEX >= 0x03100000 || Py_TYPE(candidate) != &PyType_Type) {
        return false;
    }
    PyTypeObject *type = (PyTypeObject *)candidate;
    if (!PyType_IsSubtype(type, &PyTuple_Type) || type->tp_dictoffset != 0 ||
        type->tp_weaklistoffset != 0 || type->tp_basicsize != PyTuple_Type.tp_basicsize ||
        type->tp_itemsize != PyTuple_Type.tp_itemsize || type->tp_del != NULL ||
        type->tp_finalize != NULL) {
        return false;
    }
    PyObject *fields = PyObject_GetAttrString(candidate, "_fields");
    bool is_plain = fields != NULL && PyTuple_CheckExact(fields) && PyTuple_GET_SIZE(fields) == 4;
    Py_XDECREF(fields);
    return is_plain;
}

static bool
knows_record_type(KernelState *state, PyObject *candidate)
{
    if ((PyObject *)state->record_type != candidate && is_plain_record_type(candidate)) {
        Py_INCREF(candidate);
        Py_XSETREF(state->record_type, (PyTypeObject *)candidate);
    }
    return (PyObject *)state->record_type == candidate;
}

static inline bool
is_list_of(PyObject *items, Py_ssize_t count)
{
    return PyList_CheckExact(items) && PyList_GET_SIZE(items) == count;
}

/* A new reference, to None where there is no list; NULL without an exception if the list is not
   what it was. */
static PyObject *
item_of(PyObject *list, Py_ssize_t index)
{
    if (list == NULL) {
        Py_RETURN_NONE;
    }
    if (index >= PyList_GET_SIZE(list)) {
        return NULL;
    }
    return Py_NewRef(PyList_GET_ITEM(list, index));
}

static PyObject *
time_of(const Times *times, Py_ssize_t index)
{
    if (times->same != NULL) {
        return Py_NewRef(times->same);
    }
    if (times->list != NULL) {
        return item_of(times->list, index);
    }
    return PyLong_FromLongLong(stored_time(times, index));
}

static inline bool
can_refer_back(PyObject *item)
{
    return !PyBytes_CheckExact(item) && item != Py_None && !PyLong_CheckExact(item);
}

static PyObject *
make_record(PyTypeObject *type, PyObject *offset, PyObject *time, PyObject *key, PyObject *value)
{
    /* The items are numbers, bytes and None, which refer to nothing. So no cycle goes through the
       record, and it is not given to the garbage collector to track: most of the cost of a tuple
       otherwise, at its creation and at every later collection. */
    PyTupleObject *record = PyObject_GC_NewVar(PyTupleObject, type, 4);
    if (record == NULL) {
        Py_DECREF(offset);
        Py_DECREF(time);
        Py_DECREF(key);
        Py_DECREF(value);
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    record->ob_hash = -1; /* not computed yet */
#endif
    record->ob_item[0] = offset;
    record->ob_item[1] = time;
    record->ob_item[2] = key;
    record->ob_item[3] = value;
    if (can_refer_back(time) || can_refer_back(key) || can_refer_back(value)) {
        PyObject_GC_Track(record);
    }
    return (PyObject *)record;
}

/* Columns to records, each made when it is asked for, as is its value where that is in a column. */
typedef struct {
    PyObject_HEAD
    PyTypeObject *type;
    Times times;
    PyObject *timestamps; /* what they are of */
    PyObject *keys;       /* NULL where there are none */
    PyObject *values;
    bool is_column;
    uint64_t base_offset;
    Py_ssize_t index;
    Py_ssize_t count;
} RecordIterator;

static PyObject *
RecordIterator_next(RecordIterator *self)
{
    if (self->index >= self->count) {
        return NULL;
    }
    /* Before anything is allocated (rule 4): the collector may run who asks for the next one. */
    Py_ssize_t i = self->index++;
    PyObject *value = self->is_column ? ColumnIterator_next((ColumnIterator *)self->values)
                                      : item_of(self->values, i);
    PyObject *key = value == NULL ? NULL : item_of(self->keys, i);
    PyObject *time = key == NULL ? NULL : time_of(&self->times, i);
    uint64_t number = self->base_offset + (uint64_t)i;
    PyObject *offset = time == NULL ? NULL : PyLong_FromUnsignedLongLong(number);
    if (offset != NULL) {
        return make_record(self->type, offset, time, key, value);
    }
    if (!PyErr_Occurred()) { /* else whoever asks would take it for the end */
        PyErr_SetString(PyExc_ValueError, "a column got shorter while it was read");
    }
    self->count = 0;
    Py_XDECREF(value);
    Py_XDECREF(key);
    Py_XDECREF(time);
    return NULL;
}

static void
RecordIterator_dealloc(RecordIterator *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyBuffer_Release(&self->times.buffer);
    Py_DECREF(self->type);
    Py_DECREF(self->timestamps);
    Py_XDECREF(self->keys);
    Py_DECREF(self->values);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot record_iterator_slots[] = {
    {Py_tp_dealloc, RecordIterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, RecordIterator_next},
    {0, NULL},
};

/* Not for the collector either: what its lists hold refers to nothing. */
static PyType_Spec record_iterator_spec = {
    .name = "segstore._kernel.RecordIterator",
    .basicsize = sizeof(RecordIterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = record_iterator_slots,
};

PyDoc_STRVAR(iter_records_doc,
             "iter_records($module, record_type, base_offset, timestamps, keys, values, count, /)\n"
             "--\n\n"
             "As segstore.format.columns.iter_records.");

static PyObject *
iter_records(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    KernelState *state = state_of(module);
    int64_t base_offset, count;
    if (nargs != 6 || !knows_record_type(state, args[0]) || !is_int64(args[1], &base_offset) ||
        base_offset < 0 || !is_int64(args[5], &count)) {
        return hand_over(module, ITER_RECORDS, args, nargs);
    }
    PyObject *keys = args[3] == Py_None ? NULL : args[3], *values = args[4];
    RecordIterator *records = PyObject_New(RecordIterator, state->record_iterator);
    if (records == NULL) {
        return NULL;
    }
    records->type = (PyTypeObject *)Py_NewRef(args[0]);
    records->timestamps = Py_NewRef(args[2]);
    records->keys = Py_XNewRef(keys);
    records->values = Py_NewRef(values);
    records->is_column = Py_TYPE(values) == state->column_iterator;
    records->base_offset = (uint64_t)base_offset;
    records->index = 0;
    records->count = count;
    const Times *times = &records->times;
    /* The lists after the buffer, as in `join_frame`. */
    if (!open_times(&records->times, args[2]) || (times->same == NULL && times->count != count) ||
        (keys != NULL && !is_list_of(keys, count)) ||
        (records->is_column ? ((ColumnIterator *)values)->left != count
                            : !is_list_of(values, count))) {
        Py_DECREF(records);
        return hand_over(module, ITER_RECORDS, args, nargs);
    }
    return (PyObject *)records;
}

/* ------------------------------------------------------------------------------------------ */
/* Frames                                                                                      */

#define FRAME_MAGIC 0x4D524653u
#define WHOLE 1
#define BLOCKS 2
#define HAS_TIMESTAMPS 1
#define HAS_KEYS 2
#define HAS_NULL_KEYS 4
#define CRC_START 8
#define BODY_BYTES_MAX (32 << 20)
#define RECORD_COUNT_MAX (1 << 20)
#define PIECE_RECORDS_MAX (RECORD_COUNT_MAX / 4)

/* As in segstore/format/framelayout.py. */
typedef struct {
    uint32_t magic;
    uint32_t crc;
    uint32_t body_bytes;
    uint32_t record_count;
    uint64_t base_offset;
    int64_t append_time;
    int64_t min_timestamp;
    int64_t max_timestamp;
    uint32_t log_tag;
    uint16_t attributes;
    uint8_t version;
    uint8_t reserved;
    uint64_t durable_offset;
} FrameHeader;

_Static_assert(sizeof(FrameHeader) == 64, "the header is 64 bytes");
_Static_assert(offsetof(FrameHeader, durable_offset) == 56, "no padding");

/* A frame of several records and more value bytes than this has a check for each so many. */
#define BLOCK_BYTES 4096
_Static_assert(BLOCK_BYTES % WORD_BYTES == 0, "the CRC here takes whole words");

static inline Py_ssize_t
padded(Py_ssize_t size)
{
    return (size + 7) & ~(Py_ssize_t)7;
}

static inline Py_ssize_t
block_count(Py_ssize_t values_size)
{
    return (values_size + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

/* How much of everything a frame has; the bytes of its values and keys without what pads them. */
typedef struct {
    Py_ssize_t count, values_size, keys_size;
    unsigned attributes;
    bool has_checks;
} Shape;

/* Where its columns are. */
typedef struct {
    Py_ssize_t times_at, validity_at, key_offsets_at, key_data_at, checks_at, values_at;
} Places;

static Places
lay_out(const Shape *shape)
{
    Places places;
    Py_ssize_t offsets_size = padded(4 * (shape->count + 1));
    Py_ssize_t position = (Py_ssize_t)sizeof(FrameHeader) + offsets_size;
    places.times_at = position;
    position += shape->attributes & HAS_TIMESTAMPS ? 8 * shape->count : 0;
    places.validity_at = position;
    position += shape->attributes & HAS_NULL_KEYS ? padded((shape->count + 7) / 8) : 0;
    places.key_offsets_at = position;
    position += shape->attributes & HAS_KEYS ? offsets_size : 0;
    places.key_data_at = position;
    position += padded(shape->keys_size);
    places.checks_at = position;
    position += shape->has_checks ? padded(4 * block_count(padded(shape->values_size))) : 0;
    places.values_at = position;
    return places;
}

/* The checks of all blocks of values. */
static void
store_checks(char *at, const char *values, Py_ssize_t size)
{
    uint32_t crc = ~0u;
    while (size > 0) {
        Py_ssize_t block = size < BLOCK_BYTES ? size : BLOCK_BYTES;
        crc = crc_words(crc, (const unsigned char *)values, (size_t)block);
        uint32_t check = ~crc;
        memcpy(at, &check, 4);
        at += 4;
        values += block;
        size -= block;
    }
}

/* A frame in the making. */
typedef struct {
    PyObject *bytes;
    char *data;
    Shape shape;
    Places places;
} Frame;

/* A frame with zeros in it, but for the values; false, perhaps with an exception, where it would be
   too large. Bytes are not tracked, so the collector does not run here. */
static bool
start_frame(Frame *frame, Shape shape)
{
    Py_ssize_t values_size = padded(shape.values_size);
    shape.has_checks = shape.count > 1 && values_size > BLOCK_BYTES;
    Places places = lay_out(&shape);
    Py_ssize_t size = places.values_at + values_size;
    if (size - (Py_ssize_t)sizeof(FrameHeader) > UINT32_MAX) {
        return false;
    }
    frame->bytes = PyBytes_FromStringAndSize(NULL, size);
    if (frame->bytes == NULL) {
        return false;
    }
    frame->data = PyBytes_AS_STRING(frame->bytes);
    frame->shape = shape;
    frame->places = places;
    memset(frame->data, 0, (size_t)places.values_at);
    pad(frame->data + places.values_at + shape.values_size, shape.values_size);
    return true;
}

/* Its checks and its header, once its columns are there; `header` has what does not depend on the
   shape. */
static void
finish_frame(const Frame *frame, FrameHeader header)
{
    const Shape *shape = &frame->shape;
    Py_ssize_t size = PyBytes_GET_SIZE(frame->bytes), covered = size;
    if (shape->has_checks) {
        covered = frame->places.values_at;
        store_checks(frame->data + frame->places.checks_at, frame->data + covered, size - covered);
    }
    header.magic = FRAME_MAGIC;
    header.body_bytes = (uint32_t)(size - (Py_ssize_t)sizeof header);
    header.record_count = (uint32_t)shape->count;
    header.attributes = (uint16_t)shape->attributes;
    header.version = shape->has_checks ? BLOCKS : WHOLE;
    memcpy(frame->data, &header, sizeof header);
    header.crc = crc32c((const unsigned char *)frame->data + CRC_START,
                        (size_t)(covered - CRC_START));
    memcpy(frame->data, &header, CRC_START);
}

/* What both `join_frame` give; takes the reference to the bytes over. */
static PyObject *
joined(const FrameHeader *header, PyObject *bytes)
{
    return Py_BuildValue("LLN", (long long)header->min_timestamp,
                         (long long)header->max_timestamp, bytes);
}

static inline void
store_int32(char *at, int32_t number)
{
    memcpy(at, &number, sizeof number);
}

static inline void
set_valid(const Frame *frame, Py_ssize_t index)
{
    frame->data[frame->places.validity_at + index / 8] |= (char)(1 << index % 8);
}

/* The bytes of all items together; -1 where one is not plain, or they are more than `limit`. Only
   where `has_nulls` is given may any be None. */
static int64_t
size_of_items(PyObject *items, Py_ssize_t start, Py_ssize_t stop, int64_t limit, bool *has_nulls)
{
    int64_t size = 0;
    for (Py_ssize_t i = start; i < stop; i++) {
        ask_ahead(items, i, stop);
        PyObject *item = PyList_GET_ITEM(items, i);
        if (has_nulls != NULL && item == Py_None) {
            *has_nulls = true;
        }
        else if (!PyBytes_CheckExact(item) || PyBytes_GET_SIZE(item) > limit - size) {
            return -1;
        }
        else {
            size += PyBytes_GET_SIZE(item);
        }
    }
    return size;
}

/* Items that were measured, as a column; its first offset is there, 0. */
static void
store_items(PyObject *items, Py_ssize_t start, Py_ssize_t stop, char *offset_at, char *at)
{
    int32_t end = 0;
    for (Py_ssize_t i = start; i < stop; i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        if (item != Py_None) {
            Py_ssize_t size = PyBytes_GET_SIZE(item);
            memcpy(at, PyBytes_AS_STRING(item), (size_t)size);
            at += size;
            end += (int32_t)size;
        }
        offset_at += 4;
        store_int32(offset_at, end);
    }
}

/* NULL, perhaps with an exception, where anything is not plain, or the values are fewer or more
   bytes than said. `keys` is NULL where there are none. No allocation here runs the collector, so
   the lists stay as they are. */
static PyObject *
join_checked(PyObject *values, Py_ssize_t start, Py_ssize_t stop, const Times *times,
             PyObject *keys, FrameHeader header, int64_t size_min, int64_t size_max)
{
    bool has_nulls = false;
    int64_t size = size_of_items(values, start, stop, size_max, NULL);
    int64_t keys_size =
        keys == NULL ? 0 : size_of_items(keys, start, stop, INT32_MAX, &has_nulls);
    if (size < size_min || keys_size < 0) {
        return NULL;
    }
    bool has_times = header.min_timestamp != header.max_timestamp;
    Shape shape = {
        .count = stop - start,
        .values_size = (Py_ssize_t)size,
        .keys_size = (Py_ssize_t)keys_size,
        .attributes = (has_times ? HAS_TIMESTAMPS : 0u) | (keys != NULL ? HAS_KEYS : 0u) |
                      (has_nulls ? HAS_NULL_KEYS : 0u),
    };
    Frame frame;
    if (!start_frame(&frame, shape)) {
        return NULL;
    }
    const Places *places = &frame.places;
    store_items(values, start, stop, frame.data + sizeof header, frame.data + places->values_at);
    if (keys != NULL) {
        store_items(keys, start, stop, frame.data + places->key_offsets_at,
                    frame.data + places->key_data_at);
    }
    for (Py_ssize_t i = start; has_nulls && i < stop; i++) {
        if (PyList_GET_ITEM(keys, i) != Py_None) {
            set_valid(&frame, i - start);
        }
    }
    char *time_at = frame.data + places->times_at;
    for (Py_ssize_t i = start; has_times && i < stop; i++) {
        int64_t time = times->list == NULL ? stored_time(times, i)
                                           : PyLong_AsLongLong(PyList_GET_ITEM(times->list, i));
        memcpy(time_at, &time, 8);
        time_at += 8;
    }
    finish_frame(&frame, header);
    return frame.bytes;
}

/* What of a header is passed: base offset, append time, log tag, durable offset; false where they
   are not plain. */
static bool
read_fields(PyObject *const *args, FrameHeader *header)
{
    int64_t base_offset, append_time, log_tag, durable_offset;
    if (!is_int64(args[0], &base_offset) || base_offset < 0 || !is_int64(args[1], &append_time) ||
        !is_int64(args[2], &log_tag) || log_tag < 0 || log_tag > UINT32_MAX ||
        !is_int64(args[3], &durable_offset) || durable_offset < 0) {
        return false;
    }
    header->base_offset = (uint64_t)base_offset;
    header->append_time = append_time;
    header->log_tag = (uint32_t)log_tag;
    header->durable_offset = (uint64_t)durable_offset;
    return true;
}

PyDoc_STRVAR(join_frame_doc,
             "join_frame($module, values, ends, start, stop, timestamps, keys, base_offset,\n"
             "           append_time, log_tag, durable_offset, /)\n--\n\n"
             "As segstore.format.framejoin.join_frame; `ends` is not needed.");

static PyObject *
join_frame(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 10) {
        return hand_over(module, JOIN_FRAME, args, nargs);
    }
    PyObject *values = args[0], *keys = args[5] == Py_None ? NULL : args[5], *frame = NULL;
    int64_t start, stop;
    FrameHeader header = {0};
    if (PyList_CheckExact(values) && (keys == NULL || PyList_CheckExact(keys)) &&
        is_int64(args[2], &start) && is_int64(args[3], &stop) && 0 <= start && start < stop &&
        stop - start < INT32_MAX / 4 && read_fields(args + 6, &header)) {
        Times times;
        /* The lists after the buffer, because an object may run Python to give one. */
        if (open_times(&times, args[4]) && stop <= PyList_GET_SIZE(values) &&
            (keys == NULL || stop <= PyList_GET_SIZE(keys)) &&
            time_range(&times, (Py_ssize_t)start, (Py_ssize_t)stop, &header.min_timestamp,
                       &header.max_timestamp)) {
            frame = join_checked(values, (Py_ssize_t)start, (Py_ssize_t)stop, &times, keys,
                                 header, 0, INT32_MAX);
        }
        PyBuffer_Release(&times.buffer);
    }
    if (frame != NULL) {
        return joined(&header, frame);
    }
    /* Without `ends`: another thread may have changed the list since it was measured. */
    PyObject *arguments[10];
    memcpy(arguments, args, sizeof arguments);
    arguments[1] = Py_None;
    return hand_over(module, JOIN_FRAME, arguments, 10);
}

PyDoc_STRVAR(join_whole_doc,
             "join_whole($module, values, size_min, size_max, timestamp, base_offset,\n"
             "           append_time, log_tag, durable_offset, /)\n--\n\n"
             "As segstore.format.framejoin.join_whole.");

static PyObject *
join_whole(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t size_min, size_max, time;
    FrameHeader header = {0};
    if (nargs != 8 || !PyList_CheckExact(args[0]) || !is_int64(args[1], &size_min) ||
        size_min < 0 || !is_int64(args[2], &size_max) || size_max < 0 || size_max > INT32_MAX ||
        !is_int64(args[3], &time) || !read_fields(args + 4, &header)) {
        return hand_over(module, JOIN_WHOLE, args, nargs);
    }
    const Times times = {.same = args[3]};
    header.min_timestamp = header.max_timestamp = time;
    PyObject *frame = NULL;
    Py_ssize_t count = PyList_GET_SIZE(args[0]);
    if (0 < count && count <= PIECE_RECORDS_MAX) {
        frame = join_checked(args[0], 0, count, &times, NULL, header, size_min,
                             size_max - 4 * count);
    }
    if (frame == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    return Py_BuildValue("nN", count, frame);
}

/* Where things are in a frame of version BLOCKS, by the head of it. */
typedef struct {
    FrameHeader header;
    Places places;
    Py_ssize_t values_size;
} Head;

/* How many bytes the head takes, or at least takes where they are more than those at hand; 0 where
   it is not well formed. The checksum is for the caller. */
static Py_ssize_t
lay_out_head(const char *data, Py_ssize_t size, Head *head)
{
    FrameHeader *header = &head->header;
    if (size < (Py_ssize_t)sizeof *header) {
        return 0;
    }
    memcpy(header, data, sizeof *header);
    Py_ssize_t count = header->record_count;
    if (header->magic != FRAME_MAGIC || header->version != BLOCKS ||
        header->attributes & ~(HAS_TIMESTAMPS | HAS_KEYS | HAS_NULL_KEYS) ||
        (header->attributes & HAS_NULL_KEYS && !(header->attributes & HAS_KEYS)) || count == 0 ||
        count > RECORD_COUNT_MAX || header->body_bytes > BODY_BYTES_MAX) {
        return 0;
    }
    bool has_keys = header->attributes & HAS_KEYS;
    Shape shape = {.count = count, .attributes = header->attributes, .has_checks = true};
    /* The last offsets say how large the rest is. */
    Py_ssize_t offsets_size = 4 * (count + 1), offsets_at = (Py_ssize_t)sizeof *header;
    Py_ssize_t key_offsets_at = lay_out(&shape).key_offsets_at;
    Py_ssize_t wanted = (has_keys ? key_offsets_at : offsets_at) + offsets_size;
    if (wanted > size) {
        return wanted;
    }
    int32_t values_end, keys_end = 0;
    memcpy(&values_end, data + offsets_at + offsets_size - 4, 4);
    if (has_keys) {
        memcpy(&keys_end, data + key_offsets_at + offsets_size - 4, 4);
    }
    if (values_end < 0 || keys_end < 0) {
        return 0;
    }
    shape.values_size = values_end;
    shape.keys_size = keys_end;
    head->values_size = padded(shape.values_size);
    head->places = lay_out(&shape);
    Py_ssize_t frame_size = (Py_ssize_t)sizeof *header + (Py_ssize_t)header->body_bytes;
    return head->places.values_at + head->values_size == frame_size ? head->places.values_at : 0;
}

PyDoc_STRVAR(decode_head_doc, "decode_head($module, data, log_tag, /)\n--\n\n"
                              "As segstore.format.pointread.decode_head.");

static PyObject *
decode_head(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t tag = 0;
    if (nargs != 2 || !PyBytes_CheckExact(args[0]) ||
        (args[1] != Py_None && !is_int64(args[1], &tag))) {
        return hand_over(module, DECODE_HEAD, args, nargs);
    }
    const char *data = PyBytes_AS_STRING(args[0]);
    Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    Head head;
    Py_ssize_t wanted = lay_out_head(data, size, &head);
    const FrameHeader *header = &head.header;
    if (wanted == 0 || (args[1] != Py_None && header->log_tag != tag)) {
        return hand_over(module, DECODE_HEAD, args, nargs);
    }
    if (wanted > size) {
        return PyLong_FromSsize_t(wanted);
    }
    if (crc32c((const unsigned char *)data + CRC_START, (size_t)(wanted - CRC_START)) !=
        header->crc) {
        return hand_over(module, DECODE_HEAD, args, nargs);
    }
    const Places *places = &head.places;
    return Py_BuildValue("(y#KnLin(nnnnnn))", data, wanted,
                         (unsigned long long)header->base_offset,
                         (Py_ssize_t)header->record_count, (long long)header->min_timestamp,
                         (int)header->attributes, head.values_size, places->times_at,
                         places->validity_at, places->key_offsets_at, places->key_data_at,
                         places->checks_at, places->values_at);
}

/* Blocks of values for one record, of most: two of them, where it stands in both. */
#define POINT_BYTES_MAX (2 * BLOCK_BYTES)

/* A part of a file in a row; false where it is not all there. */
static bool
read_whole(int descriptor, char *data, Py_ssize_t size, int64_t position)
{
    ssize_t done;
    Py_BEGIN_ALLOW_THREADS
    done = pread(descriptor, data, (size_t)size, position);
    Py_END_ALLOW_THREADS
    return done == size;
}

/* Where an item of a column starts and stops, by its offset; false where that is not among `size`
   bytes. */
static bool
find_item(const char *offset_at, Py_ssize_t size, int32_t *start, int32_t *stop)
{
    memcpy(start, offset_at, 4);
    memcpy(stop, offset_at + 4, 4);
    return 0 <= *start && *start <= *stop && *stop <= size;
}

/* A new reference to the key of a record, or to None; NULL, perhaps with an exception, where the
   specification has to look. */
static PyObject *
read_key(const char *data, const Head *head, Py_ssize_t index)
{
    const Places *places = &head->places;
    unsigned attributes = head->header.attributes;
    if (!(attributes & HAS_KEYS) ||
        (attributes & HAS_NULL_KEYS &&
         !(data[places->validity_at + index / 8] >> index % 8 & 1))) {
        Py_RETURN_NONE;
    }
    int32_t start, stop;
    if (!find_item(data + places->key_offsets_at + 4 * index,
                   places->checks_at - places->key_data_at, &start, &stop)) {
        return NULL;
    }
    return PyBytes_FromStringAndSize(data + places->key_data_at + start, stop - start);
}

/* The value of a record by its head, which was found well formed; NULL without an exception where
   the specification has to look. */
static PyObject *
read_value(int descriptor, int64_t position, const char *data, const Head *head, Py_ssize_t index)
{
    int32_t start, stop;
    if (!find_item(data + sizeof(FrameHeader) + 4 * index, head->values_size, &start, &stop)) {
        return NULL;
    }
    if (start == stop) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    Py_ssize_t first = start / BLOCK_BYTES, last = (stop - 1) / BLOCK_BYTES;
    Py_ssize_t blocks_start = first * BLOCK_BYTES, blocks_stop = (last + 1) * BLOCK_BYTES;
    if (blocks_stop > head->values_size) {
        blocks_stop = head->values_size;
    }
    char blocks[POINT_BYTES_MAX];
    Py_ssize_t size = blocks_stop - blocks_start;
    if (size > POINT_BYTES_MAX ||
        !read_whole(descriptor, blocks, size, position + head->places.values_at + blocks_start)) {
        return NULL;
    }
    uint32_t before = 0, after;
    if (first) {
        memcpy(&before, data + head->places.checks_at + 4 * first - 4, 4);
    }
    memcpy(&after, data + head->places.checks_at + 4 * last, 4);
    if (~crc_words(~before, (const unsigned char *)blocks, (size_t)size) != after) {
        return NULL;
    }
    return PyBytes_FromStringAndSize(blocks + (start - blocks_start), stop - start);
}

/* The last index entry at or below a relative offset, and its place in *place; -1, perhaps with an
   exception, where the specification has to look. */
static Py_ssize_t
find_place(PyObject *places, int64_t relative_offset, uint64_t *place)
{
    Py_buffer buffer;
    if (relative_offset < 0 || relative_offset > UINT32_MAX ||
        PyObject_GetBuffer(places, &buffer, PyBUF_CONTIG_RO | PyBUF_FORMAT) < 0) {
        return -1;
    }
    Py_ssize_t low = -1;
    if (is_column_of(&buffer, "Q")) {
        const unsigned char *data = buffer.buf;
        uint64_t wanted = (uint64_t)relative_offset << 32 | UINT32_MAX;
        Py_ssize_t high = buffer.len / 8;
        while (high - low > 1) {
            Py_ssize_t middle = low + (high - low) / 2;
            if (load_word(data + 8 * middle) <= wanted) {
                low = middle;
            }
            else {
                high = middle;
            }
        }
        if (low >= 0) {
            *place = load_word(data + 8 * low);
        }
    }
    /* Before the file is read, since an array that is looked into can't grow. */
    PyBuffer_Release(&buffer);
    return low;
}

/* The record by a head; NULL, perhaps with an exception, where the specification has to look. */
static PyObject *
read_by_head(PyObject *tuple, int descriptor, int64_t position, PyObject *offset_number,
             PyTypeObject *record_type)
{
    int64_t offset;
    if (!is_int64(offset_number, &offset) || !PyTuple_CheckExact(tuple) ||
        PyTuple_GET_SIZE(tuple) != 7 || !PyBytes_CheckExact(PyTuple_GET_ITEM(tuple, 0))) {
        return NULL;
    }
    PyObject *bytes = PyTuple_GET_ITEM(tuple, 0);
    const char *data = PyBytes_AS_STRING(bytes);
    /* The checks and the last offset, which are at the end and are looked at next. */
    __builtin_prefetch(data + PyBytes_GET_SIZE(bytes) - 64);
    __builtin_prefetch(data + PyBytes_GET_SIZE(bytes) - 128);
    Head head;
    Py_ssize_t wanted = lay_out_head(data, PyBytes_GET_SIZE(bytes), &head);
    if (wanted == 0 || wanted > PyBytes_GET_SIZE(bytes)) {
        return NULL;
    }
    uint64_t place = (uint64_t)offset - head.header.base_offset;
    if (offset < 0 || (uint64_t)offset < head.header.base_offset ||
        place >= head.header.record_count) {
        return NULL;
    }
    Py_ssize_t index = (Py_ssize_t)place;
    int64_t time = head.header.min_timestamp;
    if (head.header.attributes & HAS_TIMESTAMPS) {
        memcpy(&time, data + head.places.times_at + 8 * index, 8);
    }
    PyObject *value = read_value(descriptor, position, data, &head, index);
    PyObject *key = value == NULL ? NULL : read_key(data, &head, index);
    PyObject *number = key == NULL ? NULL : PyLong_FromLongLong(time);
    if (number == NULL) {
        Py_XDECREF(value);
        Py_XDECREF(key);
        return NULL;
    }
    return make_record(record_type, Py_NewRef(offset_number), number, key, value);
}

PyDoc_STRVAR(read_record_doc,
             "read_record($module, read, descriptor, places, heads, first_offset, offset,\n"
             "            record_type, /)\n--\n\n"
             "As segstore.format.pointread.read_record.");

static PyObject *
read_record(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 7) {
        return hand_over(module, READ_RECORD, args, nargs);
    }
    PyObject *heads = args[3], *record = NULL;
    int64_t descriptor, first_offset, offset;
    if (is_int64(args[1], &descriptor) && 0 <= descriptor && descriptor <= INT_MAX &&
        PyList_CheckExact(heads) && is_int64(args[4], &first_offset) && 0 <= first_offset &&
        is_int64(args[5], &offset) && 0 <= offset && knows_record_type(state_of(module), args[6])) {
        uint64_t place = 0;
        Py_ssize_t slot = find_place(args[2], offset - first_offset, &place);
        if (slot >= 0) {
            PyObject *head = slot < PyList_GET_SIZE(heads) ? PyList_GET_ITEM(heads, slot) : Py_None;
            if (head == Py_None) {
                return PyLong_FromSsize_t(slot);
            }
            Py_INCREF(head); /* another thread may drop it while the file is read */
            record = read_by_head(head, (int)descriptor, (int64_t)(place & UINT32_MAX), args[5],
                                  (PyTypeObject *)args[6]);
            Py_DECREF(head);
        }
    }
    return record != NULL ? record : hand_over(module, READ_RECORD, args, nargs);
}

/* ------------------------------------------------------------------------------------------ */
/* Frames of one record                                                                        */

/* The start of a frame of one record: the header, its value's offsets, and its key's if it has one.
   The bytes of the key follow, and those of the value. */
typedef struct {
    FrameHeader header;
    int32_t value_start;
    int32_t value_end;
    int32_t key_start;
    int32_t key_end;
} SmallFrame;

_Static_assert(offsetof(SmallFrame, key_start) == 72, "the header is 64 bytes, the offsets are 8");
_Static_assert(sizeof(SmallFrame) == 80, "and those of a key as well");

/* Of larger ones there are few. */
#define SMALL_FRAME_BYTES_MAX 4096

/* Where the value and the key of a frame of one record are, in a copy of it that stays as it is and
   has room for a SmallFrame; false where it is none, or not intact. */
static bool
lay_out_small(const char *data, Py_ssize_t size, uint64_t offset, uint32_t log_tag,
              SmallFrame *frame, Py_ssize_t *key_at, Py_ssize_t *value_at)
{
    const FrameHeader *header = &frame->header;
    memcpy(frame, data, sizeof *frame);
    const bool has_key = header->attributes == HAS_KEYS;
    *value_at = *key_at = has_key ? sizeof *frame : offsetof(SmallFrame, key_start);
    if (header->magic != FRAME_MAGIC || header->record_count != 1 ||
        header->base_offset != offset || header->log_tag != log_tag || header->version != WHOLE ||
        (header->attributes != 0 && !has_key) || size < *key_at ||
        (Py_ssize_t)header->body_bytes != size - (Py_ssize_t)sizeof *header ||
        frame->value_start != 0 || frame->value_end < 0) {
        return false;
    }
    if (has_key) {
        if (frame->key_start != 0 || frame->key_end < 0 || frame->key_end > size - *key_at) {
            return false;
        }
        *value_at += padded(frame->key_end);
    }
    return frame->value_end <= size && *value_at + padded(frame->value_end) == size &&
           crc32c((const unsigned char *)data + CRC_START, (size_t)(size - CRC_START)) ==
               header->crc;
}

/* Append to a list; takes the reference over, and NULL with an exception is no item. */
static bool
append_item(PyObject *list, PyObject *item)
{
    bool is_done = item != NULL && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return is_done;
}

/* How many bytes of small frames there are in a row, whose records go into the lists; -1 with an
   exception. */
static Py_ssize_t
take_small_frames(const char *data, Py_ssize_t size, uint64_t offset, uint32_t log_tag,
                  PyObject *const *lists)
{
    char copy[SMALL_FRAME_BYTES_MAX];
    Py_ssize_t done = 0;
    for (; offset < INT64_MAX; offset++) {
        Py_ssize_t left = size - done;
        if (left < (Py_ssize_t)offsetof(SmallFrame, key_start)) {
            break;
        }
        Py_ssize_t frame_size =
            (Py_ssize_t)sizeof(FrameHeader) +
            (uint32_t)read_once(data + done + offsetof(FrameHeader, body_bytes));
        if (frame_size < (Py_ssize_t)offsetof(SmallFrame, key_start) || frame_size > left ||
            frame_size > SMALL_FRAME_BYTES_MAX) {
            break;
        }
        memcpy(copy, data + done, (size_t)frame_size);
        SmallFrame frame;
        Py_ssize_t key_at, value_at;
        if (!lay_out_small(copy, frame_size, offset, log_tag, &frame, &key_at, &value_at)) {
            break;
        }
        PyObject *key = frame.header.attributes == HAS_KEYS
                            ? PyBytes_FromStringAndSize(copy + key_at, frame.key_end)
                            : Py_NewRef(Py_None);
        if (!append_item(lists[2], key) ||
            !append_item(lists[0], PyBytes_FromStringAndSize(copy + value_at, frame.value_end)) ||
            !append_item(lists[1], PyLong_FromLongLong(frame.header.min_timestamp))) {
            return -1;
        }
        done += frame_size;
    }
    return done;
}

PyDoc_STRVAR(take_records_doc,
             "take_records($module, view, position, offset, log_tag, values, timestamps, keys,\n"
             "             /)\n--\n\n"
             "As segstore.format.smallframes.take_records.");

static PyObject *
take_records(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    Py_buffer view;
    int64_t position, offset, log_tag;
    if (nargs != 7 || !is_int64(args[1], &position) || position < 0 ||
        !is_int64(args[2], &offset) || offset < 0 || !is_int64(args[3], &log_tag) ||
        log_tag < 0 || log_tag > UINT32_MAX ||
        !PyList_CheckExact(args[4]) || !PyList_CheckExact(args[5]) ||
        !PyList_CheckExact(args[6]) || !PyMemoryView_Check(args[0]) ||
        PyObject_GetBuffer(args[0], &view, PyBUF_CONTIG_RO) < 0) {
        return hand_over(module, TAKE_RECORDS, args, nargs);
    }
    Py_ssize_t taken = 0;
    if (view.ndim == 1 && view.itemsize == 1 && position < view.len) {
        taken = take_small_frames((const char *)view.buf + position, view.len - position,
                                  (uint64_t)offset, (uint32_t)log_tag, args + 4);
    }
    PyBuffer_Release(&view);
    return taken < 0 ? NULL : PyLong_FromLongLong(position + taken);
}

/* ------------------------------------------------------------------------------------------ */
/* The small append                                                                            */

#define FRAMES_POSITION 4096
/* More than Python takes: what is too large is found out within a few hundred values, which then
   are in the cache for whoever looks at them next. */
#define BATCH_COUNT_MAX 2048

/* The bytes that a memoryview shows, by a view of our own: theirs may be released at any time. */
static bool
open_memory(Py_buffer *memory, PyObject *theirs, int flags)
{
    PyObject *ours = PyMemoryView_FromObject(theirs);
    bool is_open = ours != NULL && PyObject_GetBuffer(ours, memory, flags) == 0;
    Py_XDECREF(ours);
    return is_open;
}

static void
release_memory(Py_buffer *memory)
{
    PyBuffer_Release(memory);
    memory->buf = NULL;
    memory->len = 0;
}

/* One record in memory, up to the drain. */
typedef struct {
    int64_t time;
    int32_t value_end;     /* of the values up to this one */
    uint32_t key_end : 31; /* of the keys */
    uint32_t has_key : 1;
} Staged;

/* Bytes that grow at their end. */
typedef struct {
    char *data;
    Py_ssize_t size, capacity;
} Column;

/* Room for so many more, and some memory even for none; false with an exception without any. A size
   fits 31 bits, as the ends of values and keys do. */
static bool
reserve(Column *column, Py_ssize_t more)
{
    Py_ssize_t size = column->size + more;
    if (more < column->capacity - column->size && size <= INT32_MAX) {
        return true;
    }
    Py_ssize_t capacity = size + size / 2 + 1024;
    char *data = size <= INT32_MAX ? PyMem_Realloc(column->data, (size_t)capacity) : NULL;
    if (data == NULL) {
        PyErr_NoMemory();
        return false;
    }
    column->data = data;
    column->capacity = capacity;
    return true;
}

static inline void
extend(Column *column, const void *data, Py_ssize_t size)
{
    memcpy(column->data + column->size, data, (size_t)size);
    column->size += size;
}

typedef struct {
    PyObject_HEAD
    Py_buffer view; /* the tail; of no size once it was released */
    Py_buffer bell;
    PyObject *append_slowly;
    PyObject *append_many_slowly;
    PyObject *ring;
    /* What is staged, as columns: the drain copies them and does no more. (References to the values
       would have it look at each of them again, when they are no longer in the cache.) */
    Column records; /* of Staged */
    Column values;
    Column keys;
    Py_ssize_t staged_count;
    bool has_keys;
    Py_ssize_t position;
    Py_ssize_t limit;
    Py_ssize_t batch_bytes_max;
    uint64_t next_offset;
    uint64_t segments_durable_offset;
    int64_t append_time;
    uint32_t log_tag;
    bool is_open;
} TailBuffer;

/* How many bytes fit behind the last frame: none where the position is not among the frames. */
static inline Py_ssize_t
room_of(const TailBuffer *self)
{
    Py_ssize_t end = self->limit < self->view.len ? self->limit : self->view.len;
    return self->position >= FRAMES_POSITION && self->position < end ? end - self->position : 0;
}

static inline Py_ssize_t
head_size(PyObject *key)
{
    return key == NULL ? offsetof(SmallFrame, key_start) : sizeof(SmallFrame);
}

static inline Py_ssize_t
size_of_key(PyObject *key)
{
    return key == NULL ? 0 : PyBytes_GET_SIZE(key);
}

/* The size of a frame of one record; -1 where it is above `room`. */
static inline Py_ssize_t
frame_size(PyObject *value, PyObject *key, Py_ssize_t room)
{
    Py_ssize_t value_size = PyBytes_GET_SIZE(value);
    Py_ssize_t key_size = size_of_key(key);
    /* Neither sum overflows: the room is that of a mapping, and far below what the offsets hold. */
    if (value_size > room || key_size > room || room > INT32_MAX) {
        return -1;
    }
    Py_ssize_t size = head_size(key) + padded(key_size) + padded(value_size);
    return size <= room ? size : -1;
}

/* Zeros behind a frame that ends there: a word, but for the end of the tail. */
static inline void
store_zeros(const TailBuffer *self, unsigned char *end)
{
    Py_ssize_t left = (unsigned char *)self->view.buf + self->view.len - end;
    memset(end, 0, (size_t)(left < WORD_BYTES ? left : WORD_BYTES));
}

typedef uint64_t __attribute__((may_alias)) Word;

/* Whoever looks at the place, in this process or another, sees a valid magic and checksum only
   after the bytes they cover. */
static void
publish(unsigned char *at, uint64_t magic_and_crc)
{
    if ((uintptr_t)at % sizeof(Word) == 0) {
        __atomic_store_n((Word *)at, magic_and_crc, __ATOMIC_RELEASE);
    }
    else {
        atomic_thread_fence(memory_order_release);
        memcpy(at, &magic_and_crc, sizeof magic_and_crc);
    }
}

/* Where the next frame goes, with no magic there: under that of the frame which had the place the
   last time, what a kill in the middle of the stores leaves would look like a damaged record. */
static unsigned char *
clear_place(const TailBuffer *self)
{
    unsigned char *at = (unsigned char *)self->view.buf + self->position;
    publish(at, 0);
    atomic_thread_fence(memory_order_release);
    return at;
}

/* Bytes behind the last frame, which fit there. */
static void
put_frame(TailBuffer *self, const char *frame, Py_ssize_t size)
{
    unsigned char *at = clear_place(self);
    memcpy(at + CRC_START, frame + CRC_START, (size_t)(size - CRC_START));
    store_zeros(self, at + size);
    publish(at, load_word((const unsigned char *)frame));
    self->position += size;
}

/* Tell who waits; false with an exception where that fails. */
static bool
ring(const TailBuffer *self)
{
    /* Whoever waits first says so in the bell and then looks for records; here the record is
       stored first and then the bell read. The fence keeps that order, without which both sides
       could miss each other. */
    atomic_thread_fence(memory_order_seq_cst);
    if (*(const volatile uint32_t *)self->bell.buf == 0) {
        return true;
    }
    PyObject *result = PyObject_CallNoArgs(self->ring);
    Py_XDECREF(result);
    return result != NULL;
}

/* A value or a key, padded; where the next goes. */
static unsigned char *
store_bytes(unsigned char *at, PyObject *bytes)
{
    Py_ssize_t size = PyBytes_GET_SIZE(bytes);
    memcpy(at, PyBytes_AS_STRING(bytes), (size_t)size);
    pad((char *)at + size, size);
    return at + padded(size);
}

static bool
reserve_all(TailBuffer *self, Py_ssize_t count, Py_ssize_t values_size, Py_ssize_t keys_size)
{
    return reserve(&self->records, count * (Py_ssize_t)sizeof(Staged)) &&
           reserve(&self->values, values_size) && reserve(&self->keys, keys_size);
}

/* Keep a record for the drain, for which there is room. */
static void
stage_one(TailBuffer *self, PyObject *value, PyObject *key, int64_t time)
{
    extend(&self->values, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
    if (key != NULL) {
        extend(&self->keys, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key));
        self->has_keys = true;
    }
    Staged record = {
        .time = time,
        .value_end = (int32_t)self->values.size,
        .key_end = (uint32_t)self->keys.size & INT32_MAX,
        .has_key = key != NULL,
    };
    extend(&self->records, &record, sizeof record);
    self->staged_count += 1;
}

/* NULL for none. */
static inline PyObject *
key_at(PyObject *keys, Py_ssize_t index)
{
    PyObject *key = keys == NULL ? Py_None : PyList_GET_ITEM(keys, index);
    return key == Py_None ? NULL : key;
}

/* `key` is NULL for a record without one; `size` is that of the frame. */
static PyObject *
append_plain(TailBuffer *self, PyObject *value, PyObject *key, int64_t time, Py_ssize_t size)
{
    /* What can fail comes first, so that what is staged and the frames never differ. */
    if (!reserve_all(self, 1, PyBytes_GET_SIZE(value), size_of_key(key))) {
        return NULL;
    }
    PyObject *offset = PyLong_FromUnsignedLongLong(self->next_offset);
    if (offset == NULL) {
        return NULL;
    }
    stage_one(self, value, key, time);
    SmallFrame frame = {
        .header.body_bytes = (uint32_t)(size - (Py_ssize_t)sizeof frame.header),
        .header.record_count = 1,
        .header.base_offset = self->next_offset,
        .header.append_time = self->append_time,
        .header.min_timestamp = time,
        .header.max_timestamp = time,
        .header.log_tag = self->log_tag,
        .header.attributes = key == NULL ? 0 : HAS_KEYS,
        .header.version = WHOLE, /* one record needs no checks of its blocks */
        .header.durable_offset = self->segments_durable_offset,
        .value_end = (int32_t)PyBytes_GET_SIZE(value),
        .key_end = key == NULL ? 0 : (int32_t)PyBytes_GET_SIZE(key),
    };
    unsigned char *at = clear_place(self), *end = at + head_size(key);
    memcpy(at + CRC_START, (const char *)&frame + CRC_START, (size_t)(end - at - CRC_START));
    if (key != NULL) {
        end = store_bytes(end, key);
    }
    end = store_bytes(end, value);
    store_zeros(self, end);
    uint64_t crc = crc32c(at + CRC_START, (size_t)(size - CRC_START));
    publish(at, crc << 32 | FRAME_MAGIC);
    self->position += size;
    self->next_offset += 1;
    if (!ring(self)) {
        Py_CLEAR(offset);
    }
    return offset;
}

static int64_t
wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

enum { KEY, TIMESTAMP, DURABILITY, KEYWORD_COUNT };
static const char *const append_keywords[] = {"key", "timestamp", "durability"};
static const char *const append_many_keywords[] = {"keys", "timestamps", "durability"};

/* One argument in place, and what was given by name, NULL for what was not or is None; false for
   any other call, and for one with a durability of its own. */
static bool
parse_append(const char *const *names, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
             PyObject **found)
{
    Py_ssize_t given_count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < given_count; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        int slot = 0;
        while (slot < KEYWORD_COUNT && PyUnicode_CompareWithASCIIString(name, names[slot]) != 0) {
            slot++;
        }
        if (slot == KEYWORD_COUNT) {
            return false;
        }
        found[slot] = args[nargs + i] == Py_None ? NULL : args[nargs + i];
    }
    return nargs == 1 && found[DURABILITY] == NULL;
}

PyDoc_STRVAR(append_doc,
             "append($self, value, *, key=None, timestamp=None, durability=None)\n--\n\n"
             "Append one record and return its offset; see `Log.append`.");

static PyObject *
TailBuffer_append(TailBuffer *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *found[KEYWORD_COUNT] = {NULL};
    int64_t time = 0;
    if (self->is_open && parse_append(append_keywords, args, nargs, kwnames, found) &&
        PyBytes_CheckExact(args[0]) && (found[KEY] == NULL || PyBytes_CheckExact(found[KEY])) &&
        (found[TIMESTAMP] == NULL || is_int64(found[TIMESTAMP], &time))) {
        Py_ssize_t size = frame_size(args[0], found[KEY], room_of(self));
        if (size > 0) {
            time = found[TIMESTAMP] == NULL ? wall_clock() : time;
            return append_plain(self, args[0], found[KEY], time, size);
        }
    }
    return PyObject_Vectorcall(self->append_slowly, args, (size_t)nargs, kwnames);
}

PyDoc_STRVAR(store_doc,
             "store($self, frame, /)\n--\n\n"
             "Put a frame behind the last; whoever calls stages its records and counts them.");

static PyObject *
TailBuffer_store(TailBuffer *self, PyObject *frame)
{
    Py_buffer data;
    if (PyObject_GetBuffer(frame, &data, PyBUF_CONTIG_RO) < 0) {
        return NULL;
    }
    if (data.itemsize != 1 || data.len < CRC_START || data.len > room_of(self)) {
        PyBuffer_Release(&data);
        PyErr_SetString(PyExc_ValueError, "the frame is not bytes, or does not fit the tail");
        return NULL;
    }
    put_frame(self, data.buf, data.len);
    PyBuffer_Release(&data);
    Py_RETURN_NONE;
}

/* Keep records for the drain, all of them or none: false, perhaps with an exception, where they are
   not plain or the values or keys more than `limit` bytes. `times` is NULL where all are `time`. */
static bool
stage_all(TailBuffer *self, PyObject *values, PyObject *keys, PyObject *times, int64_t time,
          int64_t limit)
{
    Py_ssize_t count = PyList_GET_SIZE(values);
    if ((keys != NULL && !is_list_of(keys, count)) ||
        (times != NULL && !is_list_of(times, count))) {
        return false;
    }
    bool has_nulls;
    int64_t size = size_of_items(values, 0, count, limit, NULL);
    int64_t keys_size = keys == NULL ? 0 : size_of_items(keys, 0, count, limit, &has_nulls);
    if (size < 0 || keys_size < 0) {
        return false;
    }
    for (Py_ssize_t i = 0; times != NULL && i < count; i++) {
        if (!is_int64(PyList_GET_ITEM(times, i), &time)) {
            return false;
        }
    }
    if (!reserve_all(self, count, (Py_ssize_t)size, (Py_ssize_t)keys_size)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (times != NULL) {
            is_int64(PyList_GET_ITEM(times, i), &time);
        }
        stage_one(self, PyList_GET_ITEM(values, i), key_at(keys, i), time);
    }
    return true;
}

PyDoc_STRVAR(stage_doc,
             "stage($self, values, timestamps, keys, /)\n--\n\n"
             "Keep records for the drain whose frame was stored; all of them or none.");

static PyObject *
TailBuffer_stage(TailBuffer *self, PyObject *args)
{
    PyObject *values, *times, *keys;
    if (!PyArg_ParseTuple(args, "O!O!O:stage", &PyList_Type, &values, &PyList_Type, &times,
                          &keys)) {
        return NULL;
    }
    if (!stage_all(self, values, keys == Py_None ? NULL : keys, times, 0, INT32_MAX)) {
        if (!PyErr_Occurred()) { /* whoever calls has checked them, so that this will do */
            PyErr_SetString(PyExc_ValueError, "these records can't be staged");
        }
        return NULL;
    }
    Py_RETURN_NONE;
}

/* How many bytes the first 0, 1, 2 ... staged values or keys take. */
static PyObject *
ends_of(const TailBuffer *self, bool of_keys)
{
    Py_ssize_t count = self->staged_count;
    PyObject *ends = PyBytes_FromStringAndSize(NULL, 8 * (count + 1));
    if (ends == NULL) {
        return NULL;
    }
    const Staged *records = (const Staged *)self->records.data;
    char *at = PyBytes_AS_STRING(ends);
    int64_t end = 0;
    memcpy(at, &end, 8);
    for (Py_ssize_t i = 0; i < count; i++) {
        end = of_keys ? (int64_t)records[i].key_end : records[i].value_end;
        memcpy(at + 8 * (i + 1), &end, 8);
    }
    return as_numbers(ends);
}

PyDoc_STRVAR(ends_doc, "ends($self, /)\n--\n\n"
                       "How many bytes the first 0, 1, 2 ... staged values take, and the keys if\n"
                       "there are any.");

static PyObject *
TailBuffer_ends(TailBuffer *self, PyObject *Py_UNUSED(nothing))
{
    PyObject *of_values = ends_of(self, false);
    if (of_values == NULL || !self->has_keys) {
        return of_values == NULL ? NULL : Py_BuildValue("(N)", of_values);
    }
    return Py_BuildValue("(NN)", of_values, ends_of(self, true));
}

/* The frame of the staged records from `start` to below `stop`, and its header. No allocation here
   runs the collector. */
static PyObject *
join_staged(const TailBuffer *self, Py_ssize_t start, Py_ssize_t stop, uint64_t base_offset,
            FrameHeader *header)
{
    static const Staged nothing;
    const Staged *records = (const Staged *)self->records.data + start;
    const Staged *before = start == 0 ? &nothing : records - 1;
    Shape shape = {.count = stop - start};
    const Staged *last = records + shape.count - 1;
    shape.values_size = last->value_end - before->value_end;
    shape.keys_size = (Py_ssize_t)last->key_end - (Py_ssize_t)before->key_end;
    shape.attributes = self->has_keys ? HAS_KEYS : 0;
    *header = (FrameHeader){
        .base_offset = base_offset,
        .append_time = self->append_time,
        .min_timestamp = INT64_MAX,
        .max_timestamp = INT64_MIN,
        .log_tag = self->log_tag,
        .durable_offset = self->segments_durable_offset,
    };
    for (Py_ssize_t i = 0; i < shape.count; i++) {
        int64_t time = records[i].time;
        header->min_timestamp = time < header->min_timestamp ? time : header->min_timestamp;
        header->max_timestamp = time > header->max_timestamp ? time : header->max_timestamp;
        if (self->has_keys && !records[i].has_key) {
            shape.attributes |= HAS_NULL_KEYS;
        }
    }
    bool has_times = header->min_timestamp != header->max_timestamp;
    shape.attributes |= has_times ? HAS_TIMESTAMPS : 0u;
    Frame frame;
    if (!start_frame(&frame, shape)) {
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    const Places *places = &frame.places;
    char *offset_at = frame.data + sizeof *header, *time_at = frame.data + places->times_at;
    char *key_offset_at = frame.data + places->key_offsets_at;
    for (const Staged *record = records; record <= last; record++) {
        offset_at += 4;
        store_int32(offset_at, record->value_end - before->value_end);
        if (has_times) {
            memcpy(time_at, &record->time, 8);
            time_at += 8;
        }
        if (self->has_keys) {
            key_offset_at += 4;
            store_int32(key_offset_at, (int32_t)(record->key_end - before->key_end));
        }
        if (shape.attributes & HAS_NULL_KEYS && record->has_key) {
            set_valid(&frame, record - records);
        }
    }
    memcpy(frame.data + places->key_data_at, self->keys.data + before->key_end,
           (size_t)shape.keys_size);
    memcpy(frame.data + places->values_at, self->values.data + before->value_end,
           (size_t)shape.values_size);
    finish_frame(&frame, *header);
    return frame.bytes;
}

PyDoc_STRVAR(tail_join_frame_doc,
             "join_frame($self, start, stop, base_offset, /)\n--\n\n"
             "The frame of the staged records from `start` to below `stop`.");

static PyObject *
TailBuffer_join_frame(TailBuffer *self, PyObject *args)
{
    Py_ssize_t start, stop;
    long long base_offset;
    if (!PyArg_ParseTuple(args, "nnL:join_frame", &start, &stop, &base_offset)) {
        return NULL;
    }
    if (start < 0 || stop <= start || stop > self->staged_count) {
        PyErr_Format(PyExc_ValueError, "there are no records %zd to %zd among %zd", start, stop,
                     self->staged_count);
        return NULL;
    }
    FrameHeader header;
    PyObject *frame = join_staged(self, start, stop, (uint64_t)base_offset, &header);
    return frame == NULL ? NULL : joined(&header, frame);
}

/* The offsets of records that were appended together; NULL, perhaps with an exception, where the
   slow way has to. */
static PyObject *
append_batch(TailBuffer *self, PyObject *values, PyObject *keys, PyObject *times)
{
    Py_ssize_t count = PyList_CheckExact(values) ? PyList_GET_SIZE(values) : 0;
    if (count == 0 || count > BATCH_COUNT_MAX) {
        return NULL;
    }
    uint64_t first = self->next_offset, stop = first + (uint64_t)count;
    PyObject *offsets = PyObject_CallFunction((PyObject *)&PyRange_Type, "KK",
                                              (unsigned long long)first, (unsigned long long)stop);
    /* That may have run the collector, and it anything; from here on nothing does. */
    if (offsets == NULL || !self->is_open || self->next_offset != first ||
        !is_list_of(values, count)) {
        Py_XDECREF(offsets);
        return NULL;
    }
    const Py_ssize_t start = self->staged_count;
    const Py_ssize_t kept[] = {self->records.size, self->values.size, self->keys.size};
    const bool had_keys = self->has_keys;
    self->has_keys = false; /* and then whether one of these has */
    FrameHeader header;
    PyObject *frame = NULL;
    if (stage_all(self, values, keys, times, wall_clock(), self->batch_bytes_max)) {
        frame = join_staged(self, start, self->staged_count, first, &header);
    }
    if (frame == NULL || PyBytes_GET_SIZE(frame) > self->batch_bytes_max ||
        PyBytes_GET_SIZE(frame) > room_of(self)) {
        self->staged_count = start;
        self->records.size = kept[0];
        self->values.size = kept[1];
        self->keys.size = kept[2];
        self->has_keys = had_keys;
        Py_XDECREF(frame);
        Py_DECREF(offsets);
        return NULL;
    }
    put_frame(self, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame));
    self->has_keys |= had_keys;
    self->next_offset = stop;
    Py_DECREF(frame);
    if (!ring(self)) {
        Py_CLEAR(offsets);
    }
    return offsets;
}

PyDoc_STRVAR(append_many_doc,
             "append_many($self, values, *, keys=None, timestamps=None, durability=None)\n--\n\n"
             "Append records together and return their offsets; see `Log.append_many`.");

static PyObject *
TailBuffer_append_many(TailBuffer *self, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    PyObject *found[KEYWORD_COUNT] = {NULL}, *offsets = NULL;
    if (parse_append(append_many_keywords, args, nargs, kwnames, found)) {
        offsets = append_batch(self, args[0], found[KEY], found[TIMESTAMP]);
    }
    if (offsets != NULL || PyErr_Occurred()) {
        return offsets;
    }
    return PyObject_Vectorcall(self->append_many_slowly, args, (size_t)nargs, kwnames);
}

static void
start_over(TailBuffer *self)
{
    self->staged_count = self->records.size = self->values.size = self->keys.size = 0;
    self->has_keys = false;
    self->position = FRAMES_POSITION;
}

static void
release_buffers(TailBuffer *self)
{
    self->is_open = false;
    release_memory(&self->view); /* no room, so that nothing is stored any more */
    release_memory(&self->bell);
}

PyDoc_STRVAR(release_doc, "release($self, /)\n--\n\n"
                          "Let go of the mapping, for good; `is_open` is False.");

static PyObject *
TailBuffer_release(TailBuffer *self, PyObject *Py_UNUSED(nothing))
{
    release_buffers(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(restart_doc,
             "restart($self, /)\n--\n\n"
             "Start again at the beginning, with nothing staged: all of it was drained.");

static PyObject *
TailBuffer_restart(TailBuffer *self, PyObject *Py_UNUSED(nothing))
{
    start_over(self);
    Py_RETURN_NONE;
}

static PyObject *
TailBuffer_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"view", "log_tag", "lock", "append_slowly", "append_many_slowly",
                            "bell", "ring", NULL};
    PyObject *view, *log_tag, *lock, *append_slowly, *append_many_slowly, *bell, *ring;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO!OOOOO:TailBuffer", names, &view,
                                     &PyLong_Type, &log_tag, &lock, &append_slowly,
                                     &append_many_slowly, &bell, &ring)) {
        return NULL;
    }
    unsigned long long tag = PyLong_AsUnsignedLongLong(log_tag);
    if (tag > UINT32_MAX) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_OverflowError, "log_tag does not fit 32 bits");
        }
        return NULL;
    }
    TailBuffer *self = (TailBuffer *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->log_tag = (uint32_t)tag;
    self->append_slowly = Py_NewRef(append_slowly);
    self->append_many_slowly = Py_NewRef(append_many_slowly);
    self->ring = Py_NewRef(ring);
    start_over(self);
    if (!open_memory(&self->view, view, PyBUF_CONTIG) ||
        !open_memory(&self->bell, bell, PyBUF_CONTIG_RO)) {
        goto error;
    }
    if (self->view.itemsize != 1) {
        PyErr_SetString(PyExc_ValueError, "view is not of bytes");
        goto error;
    }
    if (self->bell.itemsize != 4 || self->bell.len < 4 || (uintptr_t)self->bell.buf % 4) {
        PyErr_SetString(PyExc_ValueError, "bell is not an aligned u32");
        goto error;
    }
    self->limit = self->view.len;
    return (PyObject *)self;
error:
    Py_DECREF(self);
    return NULL;
}

/* The collector is not shown the views, as CPython's crashes on one that is part of a cycle and
   still exported. For it they are held from outside, and what is under them does not refer back. */
static int
TailBuffer_traverse(TailBuffer *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->append_slowly);
    Py_VISIT(self->append_many_slowly);
    Py_VISIT(self->ring);
    return 0;
}

/* Cycles go through the callables. None in their place, so that no method finds them gone. */
static int
TailBuffer_clear(TailBuffer *self)
{
    self->is_open = false;
    Py_XSETREF(self->append_slowly, Py_NewRef(Py_None));
    Py_XSETREF(self->append_many_slowly, Py_NewRef(Py_None));
    Py_XSETREF(self->ring, Py_NewRef(Py_None));
    return 0;
}

static void
TailBuffer_dealloc(TailBuffer *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->append_slowly);
    Py_XDECREF(self->append_many_slowly);
    Py_XDECREF(self->ring);
    PyMem_Free(self->records.data);
    PyMem_Free(self->values.data);
    PyMem_Free(self->keys.data);
    release_buffers(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define FIELD(name, type, flags) {#name, type, offsetof(TailBuffer, name), flags, NULL}

static PyMemberDef tail_buffer_members[] = {
    FIELD(is_open, T_BOOL, 0),
    FIELD(position, T_PYSSIZET, 0),
    FIELD(limit, T_PYSSIZET, 0),
    FIELD(batch_bytes_max, T_PYSSIZET, 0),
    FIELD(next_offset, T_ULONGLONG, 0),
    FIELD(segments_durable_offset, T_ULONGLONG, 0),
    FIELD(append_time, T_LONGLONG, 0),
    FIELD(staged_count, T_PYSSIZET, READONLY),
    FIELD(has_keys, T_BOOL, READONLY),
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef tail_buffer_methods[] = {
    {"append", METHOD(TailBuffer_append), METH_FASTCALL | METH_KEYWORDS, append_doc},
    {"append_many", METHOD(TailBuffer_append_many), METH_FASTCALL | METH_KEYWORDS,
     append_many_doc},
    {"store", METHOD(TailBuffer_store), METH_O, store_doc},
    {"stage", METHOD(TailBuffer_stage), METH_VARARGS, stage_doc},
    {"ends", METHOD(TailBuffer_ends), METH_NOARGS, ends_doc},
    {"join_frame", METHOD(TailBuffer_join_frame), METH_VARARGS, tail_join_frame_doc},
    {"restart", METHOD(TailBuffer_restart), METH_NOARGS, restart_doc},
    {"release", METHOD(TailBuffer_release), METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(tail_buffer_doc,
             "TailBuffer(view, log_tag, lock, append_slowly, append_many_slowly, bell, ring)\n"
             "--\n\n"
             "As segstore.segment.tailbuffer.PythonTailBuffer; `lock` is not needed with the GIL.");

static PyType_Slot tail_buffer_slots[] = {
    {Py_tp_doc, (void *)tail_buffer_doc},
    {Py_tp_new, TailBuffer_new},
    {Py_tp_dealloc, TailBuffer_dealloc},
    {Py_tp_traverse, TailBuffer_traverse},
    {Py_tp_clear, TailBuffer_clear},
    {Py_tp_members, tail_buffer_members},
    {Py_tp_methods, tail_buffer_methods},
    {0, NULL},
};

static PyType_Spec tail_buffer_spec = {
    .name = "segstore._kernel.TailBuffer",
    .basicsize = sizeof(TailBuffer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = tail_buffer_slots,
};

/* ------------------------------------------------------------------------------------------ */
/* The module                                                                                  */

static int
kernel_exec(PyObject *module)
{
    prepare_crc();
    KernelState *state = state_of(module);
    for (int i = 0; i < FUNCTION_COUNT; i++) {
        PyObject *home = PyImport_ImportModule(functions[i].home);
        if (home == NULL) {
            return -1;
        }
        state->specification[i] = PyObject_GetAttrString(home, functions[i].name);
        Py_DECREF(home);
        if (state->specification[i] == NULL) {
            return -1;
        }
    }
    state->column_iterator =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &column_iterator_spec, NULL);
    state->record_iterator =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &record_iterator_spec, NULL);
    PyObject *type = PyType_FromModuleAndSpec(module, &tail_buffer_spec, NULL);
    if (state->column_iterator == NULL || state->record_iterator == NULL || type == NULL) {
        Py_XDECREF(type);
        return -1;
    }
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}

static int
kernel_traverse(PyObject *module, visitproc visit, void *arg)
{
    KernelState *state = state_of(module);
    for (int i = 0; i < FUNCTION_COUNT; i++) {
        Py_VISIT(state->specification[i]);
    }
    Py_VISIT(state->record_type);
    Py_VISIT(state->column_iterator);
    Py_VISIT(state->record_iterator);
    return 0;
}

static int
kernel_clear(PyObject *module)
{
    KernelState *state = state_of(module);
    for (int i = 0; i < FUNCTION_COUNT; i++) {
        Py_CLEAR(state->specification[i]);
    }
    Py_CLEAR(state->record_type);
    Py_CLEAR(state->column_iterator);
    Py_CLEAR(state->record_iterator);
    return 0;
}

static void
kernel_free(void *module)
{
    kernel_clear((PyObject *)module);
}

static PyMethodDef kernel_functions[] = {
    {"decode_head", METHOD(decode_head), METH_FASTCALL, decode_head_doc},
    {"iter_column", METHOD(iter_column), METH_FASTCALL, iter_column_doc},
    {"iter_records", METHOD(iter_records), METH_FASTCALL, iter_records_doc},
    {"join_frame", METHOD(join_frame), METH_FASTCALL, join_frame_doc},
    {"join_whole", METHOD(join_whole), METH_FASTCALL, join_whole_doc},
    {"measure", METHOD(measure), METH_O, measure_doc},
    {"read_record", METHOD(read_record), METH_FASTCALL, read_record_doc},
    {"take_records", METHOD(take_records), METH_FASTCALL, take_records_doc},
    {"crc32c_of", METHOD(crc32c_of), METH_VARARGS | METH_KEYWORDS, crc32c_of_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot kernel_slots[] = {
    {Py_mod_exec, kernel_exec},
    {0, NULL},
};

static struct PyModuleDef kernel_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "segstore._kernel",
    .m_doc = "The per-record loops in C; segstore.format.kernel picks.",
    .m_size = sizeof(KernelState),
    .m_methods = kernel_functions,
    .m_slots = kernel_slots,
    .m_traverse = kernel_traverse,
    .m_clear = kernel_clear,
    .m_free = kernel_free,
};

PyMODINIT_FUNC
PyInit__kernel(void)
{
    return PyModuleDef_Init(&kernel_module);
}
