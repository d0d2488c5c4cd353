package lvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

const program = "lvm"

// errAbsent means that LVM has no such volume or group. Test with errors.Is. No other failure proves that a volume or
// group is absent.
var errAbsent = errors.New("lvm does not have it")

// errFrozen means that LVM could not freeze a filesystem, because another process has frozen it.
var errFrozen = dataset.Errorf(dataset.ErrConflict,
	"its filesystem is frozen already: try again once it is thawed (fsfreeze --unfreeze)")

// waitLimit is how long the caller waits for a command. It is long because a snapshot waits until the filesystem's
// dirty pages are written.
const waitLimit = 3 * time.Minute

// noTimeLimit is the time limit of a command that changes something, which must not be killed.
const noTimeLimit = 100 * 365 * 24 * time.Hour

// tool runs lvm(8), one command at a time. LVM locks each volume group, so concurrent commands would only spend their
// time limit waiting.
type tool struct {
	runner run.Runner
	limit  time.Duration
	*turn
}

// turn serializes the commands.
type turn struct {
	running chan struct{} // a semaphore with one place: the running command holds it
	failed  atomic.Bool   // a command has failed, and resumeSuspended has not run since

	mu      sync.Mutex
	overdue string // the running command, once it has taken longer than its limit
}

func newTool(r run.Runner) tool {
	return tool{runner: r, limit: waitLimit, turn: &turn{running: make(chan struct{}, 1)}}
}

// lvm runs a command that changes something. Neither ctx nor its time limit kills the command: a volume that it had
// suspended would stay suspended, and writers would hang. A command that takes longer than its limit continues, and
// keeps its turn until it ends. No other command starts meanwhile.
func (t tool) lvm(ctx context.Context, command string, args ...string) error {
	end, err := t.begin(ctx)
	if err != nil {
		return err
	}
	ended := make(chan error)
	abandoned := make(chan struct{}) // the caller has stopped waiting
	go func() {                      // runs until the command ends by itself
		_, err := t.run(ctx, noTimeLimit, nil, command, args...)
		if err != nil && !errors.Is(err, errAbsent) {
			t.failed.Store(true)
		}
		select {
		case ended <- err:
		case <-abandoned:
			t.setOverdue("")
			<-t.running
		}
	}()
	patience := time.NewTimer(t.limit)
	defer patience.Stop()
	select {
	case err := <-ended:
		end()
		return err
	case <-patience.C:
		t.setOverdue(strings.Join(append([]string{program, command}, args...), " "))
		err := t.busy()
		if h := t.turnOf(ctx); h != nil {
			h.ended.Store(true) // that command keeps the turn
		}
		close(abandoned)
		return err
	}
}

func (t *turn) setOverdue(command string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.overdue = command
}

// busy fails if a command has taken longer than its limit and still runs.
func (t tool) busy() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.overdue == "" {
		return nil
	}
	return dataset.Errorf(dataset.ErrOffline,
		"%q did not end within %s: it is not killed, because volumes could stay suspended, and nothing else is "+
			"done before it ends (dmesg may show which disk does not respond)", t.overdue, t.limit)
}

// begin waits for the turn to run a command. The returned function ends the turn.
func (t tool) begin(ctx context.Context) (end func(), err error) {
	look := time.NewTicker(t.limit)
	defer look.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if t.turnOf(ctx) != nil {
			return func() {}, nil
		}
		if err := t.busy(); err != nil {
			return nil, err
		}
		select {
		case t.running <- struct{}{}:
			return func() { <-t.running }, nil
		case <-ctx.Done():
		case <-look.C:
		}
	}
}

// turnKey is the key of a held turn in a context.
type turnKey struct{}

// heldTurn is a turn that a caller keeps for several commands.
type heldTurn struct {
	of    *turn
	ended atomic.Bool // the turn has ended, or a command that has exceeded its limit keeps it
}

// holdTurn waits for the turn and keeps it until done is called. Commands use the held turn if they run with the
// returned context.
func (t tool) holdTurn(ctx context.Context) (in context.Context, done func(), err error) {
	end, err := t.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	h := &heldTurn{of: t.turn}
	return context.WithValue(ctx, turnKey{}, h), func() {
		if !h.ended.Swap(true) {
			end()
		}
	}, nil
}

// turnOf returns the held turn of a context, or nil if it has none.
func (t tool) turnOf(ctx context.Context) *heldTurn {
	h, _ := ctx.Value(turnKey{}).(*heldTurn)
	if h == nil || h.of != t.turn || h.ended.Load() {
		return nil
	}
	return h
}

// query runs a command that changes nothing and returns its output.
func (t tool) query(ctx context.Context, command string, args ...string) ([]byte, error) {
	end, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	var out bytes.Buffer
	_, err = t.run(ctx, t.limit, &out, command, args...)
	return out.Bytes(), err
}

func (t tool) run(ctx context.Context, limit time.Duration, out io.Writer, command string,
	args ...string) (run.Result, error) {
	all := append([]string{command}, settings()...)
	res, err := t.runner.Run(context.WithoutCancel(ctx), run.Command{
		Name:    program,
		Args:    append(all, args...),
		Timeout: limit,
		Stdout:  out,
	})
	return res, classify(err)
}

// settings returns options that make writes to a full thin pool fail at once instead of after a minute. They also make
// LVM work without udev. Otherwise LVM would wait for udev to make the nodes below /dev.
func settings() []string {
	config := "activation{error_when_full=1}"
	if _, err := os.Stat("/run/udev/control"); err != nil {
		config = "activation{error_when_full=1 udev_sync=0 udev_rules=0} devices{obtain_device_list_from_udev=0}"
	}
	return []string{"--config", config}
}

// classify adds the error of knownErrors whose message lvm(8) wrote. It returns all other errors unchanged.
func classify(err error) error {
	var failed *run.Error
	if !errors.As(err, &failed) {
		return err
	}
	for _, a := range knownErrors() {
		if failed.ExitCode == failedExit && a.pattern.MatchString(failed.Stderr) {
			return fmt.Errorf("%w: %w", a.err, err)
		}
	}
	return err
}

type knownError struct {
	pattern *regexp.Regexp
	err     error
}

// knownErrors returns the messages that lvm(8) writes to stderr in the C locale.
func knownErrors() []knownError {
	return []knownError{
		{regexp.MustCompile(`Failed to find logical volume|Volume group "\S*" not found`), errAbsent},
		{regexp.MustCompile(`[Ii]nsufficient (free|suitable)|out of data space|reached threshold|free space`),
			dataset.ErrNoSpace},
		{regexp.MustCompile(`suspend ioctl .* failed: Device or resource busy`), errFrozen},
		{regexp.MustCompile(`in use|is used by another`), dataset.ErrInUse},
	}
}

// failedExit is lvm's exit code for every failure.
const failedExit = 5

// group is a volume group.
type group struct {
	Tags    []string
	Free    dataset.Size
	Extent  dataset.Size
	Missing int // devices
}

// volume is a logical volume.
type volume struct {
	Name     string
	Size     dataset.Size
	Tags     []string
	Pool     string       // the thin pool that it is in
	Kind     string       // "thin-pool", "thin", "linear", …
	Chunk    dataset.Size // of a thin pool
	WhenFull string       // of a thin pool: "error" or "queue"
}

type row map[string]string

func (r row) bytes(field string) dataset.Size {
	n, _ := strconv.ParseInt(r[field], 10, 64)
	return dataset.Size(n)
}

func (r row) list(field string) []string {
	if r[field] == "" {
		return nil
	}
	return strings.Split(r[field], ",")
}

// report runs a reporting command, such as lvs or vgs, and returns the named fields of each object that it reports.
func (t tool) report(ctx context.Context, command, fields string, args ...string) ([]row, error) {
	args = append([]string{"--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields}, args...)
	out, err := t.query(ctx, command, args...)
	if err != nil {
		return nil, err
	}
	var output struct{ Report []map[string][]row }
	if err := json.Unmarshal(out, &output); err != nil {
		return nil, fmt.Errorf("lvm %s wrote no report: %w", command, err)
	}
	var rows []row
	for _, r := range output.Report {
		for _, list := range r { // the report has one list, named after the kind of object
			rows = append(rows, list...)
		}
	}
	return rows, nil
}

// readGroup returns a volume group with its volumes by name. It fails with errAbsent if there is no such group.
func (t tool) readGroup(ctx context.Context, name string) (group, map[string]volume, error) {
	const fields = "vg_name,vg_tags,vg_free,vg_extent_size,vg_missing_pv_count"
	rows, err := t.report(ctx, "vgs", fields+","+volumeFields, name)
	if err == nil && len(rows) == 0 { // the group has no volumes
		rows, err = t.report(ctx, "vgs", fields, name)
	}
	if err == nil && (len(rows) == 0 || slices.ContainsFunc(rows, func(r row) bool { return r["vg_name"] != name })) {
		err = fmt.Errorf("lvm reported other objects when asked for volume group %s", name)
	}
	if err != nil {
		return group{}, nil, err
	}
	r := rows[0]
	missing, err := strconv.Atoi(r["vg_missing_pv_count"])
	g := group{Tags: r.list("vg_tags"), Free: r.bytes("vg_free"), Extent: r.bytes("vg_extent_size"), Missing: missing}
	if err != nil || g.Extent <= 0 {
		return group{}, nil, fmt.Errorf("lvm wrote %q for volume group %s", r, name)
	}
	return g, volumesOf(rows), nil
}

// volumes returns volumes by name. target is a volume group, whose volumes are returned, or one volume (Pool.ref).
func (t tool) volumes(ctx context.Context, target string) (map[string]volume, error) {
	rows, err := t.report(ctx, "lvs", volumeFields, target)
	return volumesOf(rows), err
}

const volumeFields = "lv_name,lv_size,lv_tags,pool_lv,segtype,chunk_size,lv_when_full"

func volumesOf(rows []row) map[string]volume {
	found := map[string]volume{}
	for _, r := range rows {
		if name := r["lv_name"]; name != "" {
			found[name] = volume{
				Name:     name,
				Size:     r.bytes("lv_size"),
				Tags:     r.list("lv_tags"),
				Pool:     r["pool_lv"],
				Chunk:    r.bytes("chunk_size"),
				Kind:     r["segtype"],
				WhenFull: r["lv_when_full"],
			}
		}
	}
	return found
}
