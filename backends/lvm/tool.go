package lvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

const program = "lvm"

// errAbsent: LVM has no such volume or group; test with errors.Is. Every other failure says
// nothing of what is there.
var errAbsent = errors.New("lvm has it not")

// errFrozen: LVM could not freeze a filesystem, since somebody else has.
var errFrozen = dataset.Errorf(dataset.ErrConflict, "its filesystem is frozen already: try again once it is thawed (fsfreeze --unfreeze)")

// limit bounds one command. A snapshot waits until the filesystem's dirty pages are written.
const limit = 3 * time.Minute

// tool runs lvm(8), one command at a time: LVM has a lock for each volume group, and those
// that wait for it would only use their time up.
type tool struct {
	runner run.Runner
	one    chan struct{} // one command's turn
}

func newTool(r run.Runner) tool { return tool{runner: r, one: make(chan struct{}, 1)} }

// lvm runs a command that changes something. It is never killed by ctx: a volume that it had
// suspended would stay so, with whoever writes to it.
func (t tool) lvm(ctx context.Context, command string, args ...string) error {
	_, err := t.run(ctx, command, args...)
	return err
}

func (t tool) run(ctx context.Context, command string, args ...string) ([]byte, error) {
	select {
	case t.one <- struct{}{}:
		defer func() { <-t.one }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all := append([]string{command}, settings()...)
	var out bytes.Buffer
	_, err := t.runner.Run(context.WithoutCancel(ctx), run.Command{Name: program, Args: append(all, args...), Timeout: limit, Stdout: &out})
	return out.Bytes(), classify(err)
}

// settings are of what a thin pool does when it is full (errors at once, and not after a
// minute), and for a host, or a container, in which no udev runs: LVM would wait for its
// word, and have it make the nodes below /dev.
func settings() []string {
	config := "activation{error_when_full=1}"
	if _, err := os.Stat("/run/udev/control"); err != nil {
		config = "activation{error_when_full=1 udev_sync=0 udev_rules=0} devices{obtain_device_list_from_udev=0}"
	}
	return []string{"--config", config}
}

func classify(err error) error {
	var failed *run.Error
	if !errors.As(err, &failed) {
		return err
	}
	for _, a := range answers() {
		if failed.ExitCode == failedExit && a.said.MatchString(failed.Stderr) {
			return fmt.Errorf("%w: %w", a.means, err)
		}
	}
	return err
}

type answer struct {
	said  *regexp.Regexp
	means error
}

// answers are what lvm(8) writes on stderr in the C locale.
func answers() []answer {
	return []answer{
		{regexp.MustCompile(`Failed to find logical volume|Volume group "\S*" not found`), errAbsent},
		{regexp.MustCompile(`[Ii]nsufficient (free|suitable)|out of data space|reached threshold|free space`), dataset.ErrNoSpace},
		{regexp.MustCompile(`suspend ioctl .* failed: Device or resource busy`), errFrozen},
		{regexp.MustCompile(`in use|is used by another`), dataset.ErrInUse},
	}
}

// failedExit is lvm's exit code for whatever it could not do.
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

// report asks for fields of what is in a volume group.
func (t tool) report(ctx context.Context, command, fields string, args ...string) ([]row, error) {
	args = append([]string{"--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields}, args...)
	out, err := t.run(ctx, command, args...)
	if err != nil {
		return nil, err
	}
	var said struct{ Report []map[string][]row }
	if err := json.Unmarshal(out, &said); err != nil {
		return nil, fmt.Errorf("lvm %s wrote no report: %w", command, err)
	}
	var rows []row
	for _, r := range said.Report {
		for _, list := range r { // one, named after what the fields are of
			rows = append(rows, list...)
		}
	}
	return rows, nil
}

// look returns a volume group with what is in it, by name; errAbsent: there is none of that
// name.
func (t tool) look(ctx context.Context, name string) (group, map[string]volume, error) {
	const fields = "vg_name,vg_tags,vg_free,vg_extent_size,vg_missing_pv_count"
	rows, err := t.report(ctx, "vgs", fields+","+volumeFields, name)
	if err == nil && len(rows) == 0 { // there is nothing in it
		rows, err = t.report(ctx, "vgs", fields, name)
	}
	if err == nil && (len(rows) == 0 || slices.ContainsFunc(rows, func(r row) bool { return r["vg_name"] != name })) {
		err = fmt.Errorf("lvm told of other things when asked for volume group %s", name)
	}
	if err != nil {
		return group{}, nil, err
	}
	r := rows[0]
	missing, err := strconv.Atoi(r["vg_missing_pv_count"])
	g := group{Tags: r.list("vg_tags"), Free: r.bytes("vg_free"), Extent: r.bytes("vg_extent_size"), Missing: missing}
	if err != nil || g.Extent <= 0 {
		return group{}, nil, fmt.Errorf("lvm wrote %q of volume group %s", r, name)
	}
	return g, volumesOf(rows), nil
}

// volumes returns what is in a volume group, by name, or what of it is asked for.
func (t tool) volumes(ctx context.Context, what string) (map[string]volume, error) {
	rows, err := t.report(ctx, "lvs", volumeFields, what)
	return volumesOf(rows), err
}

const volumeFields = "lv_name,lv_size,lv_tags,pool_lv,segtype,chunk_size,lv_when_full"

func volumesOf(rows []row) map[string]volume {
	found := map[string]volume{}
	for _, r := range rows {
		if name := r["lv_name"]; name != "" {
			found[name] = volume{Name: name, Size: r.bytes("lv_size"), Tags: r.list("lv_tags"), Pool: r["pool_lv"], Chunk: r.bytes("chunk_size"), Kind: r["segtype"], WhenFull: r["lv_when_full"]}
		}
	}
	return found
}
