package agenttest

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing/fstest"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
)

// HangingBackend is backend dir with a pool named other whose disk can hang. While it hangs, calls of one kind do not
// return, even if their context ends.
type HangingBackend struct {
	dir.Backend
	Mu            sync.Mutex
	call          string
	gate          chan struct{}
	WaitingCalls  int  // calls that waited or still wait
	otherClosed   bool // pool other was closed
	statuses      int  // calls of Status of pool other
	OwnFilesystem bool // pool other says that each dataset is a filesystem
	Fails         bool // pool other refuses new data, because it is full
}

// Hang blocks the calls of one kind.
func (h *HangingBackend) Hang(call string) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.call, h.gate = call, make(chan struct{})
}

// Resume ends Hang.
func (h *HangingBackend) Resume() {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if h.call != "" {
		close(h.gate)
	}
	h.call = ""
}

// Calls returns how many calls have waited or still wait.
func (h *HangingBackend) Calls() int {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	return h.WaitingCalls
}

// Statuses returns how many calls have read the status of pool other. Calls that hang count.
func (h *HangingBackend) Statuses() int {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	return h.statuses
}

func (h *HangingBackend) wait(pool, call string) {
	h.Mu.Lock()
	gate, is := h.gate, h.call == call && pool == "other"
	if is {
		h.WaitingCalls++
	}
	h.Mu.Unlock()
	if is {
		<-gate
	}
}

func (h *HangingBackend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	h.wait(cfg.Name, "open")
	p, err := h.Backend.Open(context.WithoutCancel(ctx), cfg)
	return hangingPool{p, h, cfg.Name}, err
}

type hangingPool struct {
	backends.Pool
	h    *HangingBackend
	name string
}

// Closed reports whether pool other was closed.
func (h *HangingBackend) Closed() bool {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	return h.otherClosed
}

func (p hangingPool) Close() error {
	p.h.Mu.Lock()
	defer p.h.Mu.Unlock()
	p.h.otherClosed = p.h.otherClosed || p.name == "other"
	return p.Pool.Close()
}

func (p hangingPool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	p.h.wait(p.name, "create")
	p.h.Mu.Lock()
	fails := p.h.Fails
	p.h.Mu.Unlock()
	if fails {
		return 0, dataset.Errorf(dataset.ErrNoSpace, "pool %s is full", p.name)
	}
	return p.Pool.Create(ctx, d)
}

func (p hangingPool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	p.h.wait(p.name, "reap")
	return p.Pool.Reap(ctx, drop)
}

func (p hangingPool) Status(ctx context.Context) dataset.PoolStatus {
	if p.name == "other" {
		p.h.Mu.Lock()
		p.h.statuses++
		p.h.Mu.Unlock()
	}
	p.h.wait(p.name, "status")
	return p.Pool.Status(ctx)
}

func (p hangingPool) Generation() (uint64, error) {
	p.h.wait(p.name, "generation")
	return p.Pool.Generation()
}

func (p hangingPool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	p.h.wait(p.name, "used")
	return p.Pool.Used(ctx, id)
}

func (p hangingPool) List(ctx context.Context) ([]backends.Entry, error) {
	p.h.wait(p.name, "list")
	return p.Pool.List(ctx)
}

func (p hangingPool) Info() backends.Info {
	i := p.Pool.Info()
	p.h.Mu.Lock()
	defer p.h.Mu.Unlock()
	i.Capabilities.OwnFilesystem = p.h.OwnFilesystem && p.name == "other"
	return i
}

func (p hangingPool) Raise(to uint64) error {
	p.h.wait(p.name, "raise")
	return p.Pool.Raise(to)
}

func (p hangingPool) Attach(ctx context.Context, id uuid.UUID, o backends.AttachOptions) (backends.Attachment, error) {
	p.h.wait(p.name, "attach")
	return p.Pool.Attach(ctx, id, o)
}

// FailingBackend is backend dir with pools that the test takes offline and fills.
type FailingBackend struct {
	dir.Backend
	Offline atomic.Bool
	Refuse  error // if not nil, the error of every create, clone and snapshot
}

func (f *FailingBackend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if f.Offline.Load() {
		return nil, dataset.Errorf(dataset.ErrOffline, "its disk is gone")
	}
	p, err := f.Backend.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &failingPool{p, f}, nil
}

type failingPool struct {
	backends.Pool
	f *FailingBackend
}

func (p *failingPool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	if p.f.Refuse != nil {
		return 0, p.f.Refuse
	}
	return p.Pool.Create(ctx, d)
}

func (p *failingPool) Clone(
	ctx context.Context, d dataset.Dataset, src dataset.Source, progress backends.Progress,
) (dataset.Size, error) {
	if p.f.Refuse != nil {
		return 0, p.f.Refuse
	}
	return p.Pool.Clone(ctx, d, src, progress)
}

func (p *failingPool) Snapshot(ctx context.Context, s dataset.Snapshot, progress backends.Progress) error {
	if p.f.Refuse != nil {
		return p.f.Refuse
	}
	return p.Pool.Snapshot(ctx, s, progress)
}

// Machine is the source of facts about a host whose load the test sets. Its mutex serializes SetLoad only. An agent
// that reads Files must be stopped while the test calls SetLoad.
type Machine struct {
	mu    sync.Mutex
	Files fstest.MapFS
}

// NewMachine returns a machine with two CPUs.
func NewMachine() *Machine {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return &Machine{Files: fstest.MapFS{
		"proc/sys/kernel/osrelease":     file("6.1.0\n"),
		"proc/cpuinfo":                  file("flags : hypervisor\n"),
		"proc/meminfo":                  file("MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n"),
		"proc/loadavg":                  file("20 20 20 1/1 1\n"),
		"sys/devices/system/cpu/online": file("0-1\n"),
	}}
}

// SetLoad sets the load averages.
func (m *Machine) SetLoad(load int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := strconv.Itoa(load)
	m.Files["proc/loadavg"] = &fstest.MapFile{Data: []byte(l + " " + l + " " + l + " 1/1 1\n")}
}
