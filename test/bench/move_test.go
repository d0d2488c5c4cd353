package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// BenchmarkMove measures the move of a volume of which one hundredth, or one tenth, was overwritten, in blocks of 64
// KiB in scattered places. The volume moves to the node from which it came, which is compared with a bare TCP copy of
// as many bytes, and moves back with nothing to transfer. The difference between the times for the larger and the
// smaller number of bytes is the time of the stream alone. It also measures what a writer notices if its volume moves
// to a node with a fresh replica.
func BenchmarkMove(b *testing.B) {
	for _, fs := range []string{"xfs", "btrfs"} {
		b.Run(fs, func(b *testing.B) {
			size := int64(knob(b, "BENCH_MOVE_MIB", 10<<10)) << 20
			m := &mover{b: b, fs: fs, size: size, dice: rand.New(rand.NewPCG(1, 2))}
			m.Cluster = cluster.New(b, cluster.Options{
				Consul: 1, Controls: 1, Hosts: 2, Engines: -1, Pool: fs, Size: 2*size + 8<<30, Profiles: moveProfiles,
			})
			m.first()
			header(os.Stdout, "bare TCP", "move")
			m.compare("unshaped", "", 100, goal{})
			few := m.compare("1 Gbit/s", "1gbit", 100, atLeast(0.9))
			many := m.compare("1 Gbit/s", "1gbit", 10, atLeast(0.9))
			bare, moved := many.bare-few.bare, many.moved-few.moved
			rate := interval{bare / moved, bare / moved, bare / moved}
			row{what: "of the two: what came more", a: bare, b: moved, unit: "ms", ratio: rate, goal: atLeast(0.9)}.print(os.Stdout)
			m.gaps()
			quiet(b)
		})
	}
}

const moveProfiles = `
default: plain
profiles:
  plain: {description: moved by hand}
  fresh: {description: with a replica, size: 1GiB, replicas: {count: 1, every: 1s}}
`

// mover moves a volume back and forth.
type mover struct {
	*cluster.Cluster

	b    *testing.B
	fs   string
	size int64
	dice *rand.Rand
	at   int // which of the hosts is the home
}

const (
	movedVolume = "moved"
	movedBlock  = 64 << 10
)

func (m *mover) ok(err error) {
	m.b.Helper()
	require.NoError(m.b, err)
}

// within calls f with the path of a mounted volume's root.
func (m *mover) within(h *cluster.Host, volume string, f func(root string) error) {
	m.b.Helper()
	p := h.Plug(m.b)
	at, err := p.Mount(volume, "bench")
	m.ok(err)
	m.ok(errors.Join(f(h.File(at)), p.Unmount(volume, "bench")))
}

// first makes and fills the volume, and moves it so that both hosts have a copy.
func (m *mover) first() {
	m.b.Helper()
	h := m.Hosts[0]
	m.ok(h.Plug(m.b).Create(movedVolume, map[string]string{"size": fmt.Sprintf("%dMiB", m.size>>20*5/4+256)}))
	m.within(h, movedVolume, func(root string) error { return m.write(root, m.size/movedBlock, 1) })
	began := time.Now()
	m.move()
	took := time.Since(began)
	fmt.Printf("\n%s: all of %d MiB came in %s (%.0f MB/s)\n", m.fs, m.size>>20, took.Round(time.Millisecond), float64(m.size)/1e6/took.Seconds())
}

// write writes the given number of blocks, every stride-th or one of each stride, in random order.
func (m *mover) write(root string, blocks, stride int64) (err error) {
	f, err := os.OpenFile(filepath.Join(root, "data"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
	noise := rand.NewChaCha8([32]byte{byte(m.dice.Uint64()), byte(m.dice.Uint64())})
	block := make([]byte, movedBlock)
	for i := range blocks {
		n := i
		if stride > 1 {
			n = i*stride + m.dice.Int64N(stride)
		}
		if _, err := noise.Read(block); err != nil {
			return err
		}
		if _, err := f.WriteAt(block, n*movedBlock); err != nil {
			return err
		}
	}
	return nil
}

// rewrite overwrites the given fraction of the volume, and returns the number of bytes.
func (m *mover) rewrite(part int64) int64 {
	m.b.Helper()
	blocks := m.size / movedBlock / part
	m.within(m.Hosts[m.at], movedVolume, func(root string) error { return m.write(root, blocks, part) })
	return blocks * movedBlock
}

// move makes the other host the home.
func (m *mover) move() dataset.Operation {
	m.b.Helper()
	c := m.Controls[0].Client(m.b)
	defer c.Close()
	out, err := c.Submit(m.b.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: movedVolume, Node: m.Hosts[1-m.at].Name})
	m.ok(err)
	op := *out.Operation
	for !op.State.Final() {
		op, err = c.Operation(m.b.Context(), op.ID.String(), time.Minute)
		m.ok(err)
	}
	if op.State != dataset.OpDone {
		m.b.Fatalf("move: %+v", op.Problem)
	}
	m.at = 1 - m.at
	return op
}

// compare overwrites a fraction of the volume and moves it, at a given rate of the link, in turns with a bare copy,
// and moves it back. It returns the medians.
func (m *mover) compare(what, rate string, part int64, g goal) (out took) {
	m.b.Helper()
	if rate != "" {
		for _, h := range m.Hosts {
			m.Net.Shape(h.On, rate)
			defer m.Net.Shape(h.On, "")
		}
	}
	var changed int64
	var bare, moved, empty, sent []float64
	for range max(3, pairs(m.b)/6) {
		changed = m.rewrite(part)
		from, to := m.Hosts[m.at], m.Hosts[1-m.at]
		bare = append(bare, timed(func() { m.copy(from, to, changed) }))
		before := m.transmitted(from)
		moved = append(moved, timed(func() { m.move() }))
		sent = append(sent, float64(m.transmitted(from)-before)/float64(changed))
		empty = append(empty, timed(func() { m.move() }))
	}
	title := fmt.Sprintf("move, %s, %d of %d MiB anew, %s", m.fs, changed>>20, m.size>>20, what)
	row{what: title, a: median(bare).mid, b: median(moved).mid, unit: "ms", ratio: median(ratios(moved, bare)), goal: g}.print(os.Stdout)
	single("a move of nothing", empty, "ms", goal{})
	single("bytes that the host sent / bytes changed", sent, "", atMost(1.05))
	return took{median(bare).mid, median(moved).mid}
}

// took has the milliseconds of a bare copy and of a move of as many bytes.
type took struct{ bare, moved float64 }

// copy sends bytes from one host to another one, which discards them.
func (m *mover) copy(from, to *cluster.Host, n int64) {
	m.b.Helper()
	var l net.Listener
	m.ok(from.On.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(from.On.IP, "9999"))
		return err
	}))
	defer l.Close()
	sent := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.CopyN(c, rand.NewChaCha8([32]byte{}), n)
			err = errors.Join(err, c.Close())
		}
		sent <- err
	}()
	c, err := to.On.Dial(m.b.Context(), "tcp", l.Addr().String())
	m.ok(err)
	got, err := io.Copy(io.Discard, c)
	m.ok(errors.Join(err, c.Close(), <-sent))
	if got != n {
		m.b.Fatalf("a bare copy of %d bytes brought %d", n, got)
	}
}

// transmitted is the number of bytes that a host has sent, with all headers.
func (m *mover) transmitted(h *cluster.Host) int64 {
	m.b.Helper()
	args := h.On.Command("cat", "/proc/net/dev")
	out, err := exec.CommandContext(m.b.Context(), args[0], args[1:]...).Output()
	m.ok(err)
	for line := range strings.Lines(string(out)) {
		name, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); strings.TrimSpace(name) == "eth0" && len(fields) > 8 {
			n, err := strconv.ParseInt(fields[8], 10, 64)
			m.ok(err)
			return n
		}
	}
	m.b.Fatal("no eth0")
	return 0
}

// gaps prints the largest gaps in the log of a writer whose volume moves back and forth, each time to a node with a
// fresh replica.
func (m *mover) gaps() {
	m.b.Helper()
	const volume = "written"
	m.ok(m.Hosts[0].Plug(m.b).Create(volume+"@fresh", nil))
	m.within(m.Hosts[0], volume, func(root string) error {
		_, err := m.log(root, 2*time.Second)
		return err
	})
	var gaps []float64
	for n := range max(3, pairs(m.b)/6) {
		h, next := m.Hosts[n%2], m.Hosts[1-n%2]
		m.replicated(h, volume)
		p := h.Plug(m.b)
		at, err := p.Mount(volume, "one")
		m.ok(err)
		last, err := m.log(h.File(at), 500*time.Millisecond)
		m.ok(errors.Join(err, p.Unmount(volume, "one")))
		q := next.Plug(m.b)
		at, err = q.Mount(volume, "two")
		m.ok(err)
		_, err = m.log(next.File(at), time.Millisecond)
		gaps = append(gaps, float64(time.Since(last))/1e6)
		m.ok(errors.Join(err, q.Unmount(volume, "two")))
	}
	single("the largest gap of a writer, moved to a fresh replica, "+m.fs, gaps, "ms", atMost(1000))
}

// log writes a line each millisecond for a while, flushes the file, and returns the time of the last write.
func (m *mover) log(root string, span time.Duration) (last time.Time, err error) {
	f, err := os.OpenFile(filepath.Join(root, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return last, err
	}
	defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
	ctx, cancel := context.WithTimeout(m.b.Context(), span)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		last = time.Now()
		if _, err := fmt.Fprintln(f, last.UnixNano()); err != nil {
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, nil
		case <-tick.C:
		}
	}
}

// replicated waits until another host has a fresh copy.
func (m *mover) replicated(h *cluster.Host, volume string) {
	m.b.Helper()
	host.Await(m.b, "a replica of "+volume, func() error {
		for _, c := range h.Inspect(m.b, volume).CopyDetails {
			if c.Kind == dataset.CopyReplica && c.Snapshot != uuid.Nil {
				return nil
			}
		}
		return errors.New("there is none")
	})
}
