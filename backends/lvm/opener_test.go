package lvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// A group with the right name on other disks than the configured ones is refused.
func TestGroupOnOtherDisks(t *testing.T) {
	mine := uuid.New()
	for _, c := range []struct {
		named []string
		want  *dataset.Kind
	}{
		{[]string{"/dev/zero"}, dataset.ErrExists},
		{[]string{"/dev/null"}, dataset.ErrExists},
		{[]string{"/dev/null", "/dev/zero", "/dev/full"}, dataset.ErrExists},
		{[]string{"/dev/null", "/dev/drover-none"}, dataset.ErrInvalid},
		{[]string{"/dev/zero", "/dev/null"}, nil},
	} {
		p := &Pool{vg: "vg0", tool: newTool(
			answersWith(0, `{"report":[{"vg":[{"pv_name":"/dev/null"},{"pv_name":"/dev/zero"}]}]}`, ""))}
		err := p.sameDisks(t.Context(), c.named)
		if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%q: %v", c.named, err)
		}
	}
	var asked fakes.Recorder
	asked.Next = fakes.Run(func(ctx context.Context, c run.Command) (run.Result, error) {
		said := `"vg_name":"vg0","vg_tags":"drover.pool=` + mine.String() + `","vg_free":"107374182400","vg_extent_size":"4194304","vg_missing_pv_count":"0"`
		if slices.Contains(c.Args, "pv_name") {
			said = `"pv_name":"/dev/null"`
		}
		return answersWith(0, `{"report":[{"vg":[{`+said+`}]}]}`, "")(ctx, c)
	})
	cfg := backends.Config{
		ID:      mine,
		Name:    "fast",
		Path:    "/dev/vg0",
		Mount:   t.TempDir(),
		Devices: []string{"/dev/zero"},
		Make:    true,
	}
	if _, err := New(&asked).Open(t.Context(), cfg); !errors.Is(err, dataset.ErrExists) {
		t.Error(err)
	}
	for _, call := range asked.Calls() {
		if call.Args[0] != "vgs" {
			t.Errorf("it ran %q", call.Args)
		}
	}
}

// A device that is too small for a pool is refused before a group is made on it.
func TestTooSmallForAGroup(t *testing.T) {
	var asked fakes.Recorder
	asked.Next = answersWith(5, "", `  Volume group "drover-none" not found`)
	cfg := backends.Config{
		Name:    "none",
		Path:    "/dev/drover-none",
		Mount:   t.TempDir(),
		Devices: []string{scratch.Disk(t, 400<<20)},
		Make:    true,
	}
	if _, err := New(&asked).Open(t.Context(), cfg); !errors.Is(err, dataset.ErrUnsupported) ||
		!strings.Contains(err.Error(), "too small for a pool (at least 544MiB)") {
		t.Error(err)
	}
	for _, call := range asked.Calls() {
		if call.Args[0] != "vgs" {
			t.Errorf("it ran %q", call.Args)
		}
	}
}

// The content of the volume for the records decides whether it is formatted.
func TestRecordsAreLookedAt(t *testing.T) {
	mine := uuid.New()
	for what, c := range map[string]struct {
		put  func(image []byte)
		done bool
		fine bool
	}{
		"nothing":        {func([]byte) {}, false, true},
		"what lay there": {func(b []byte) { copy(b[8<<20:], "noise") }, false, true},
		"its filesystem": {func(b []byte) { copy(b[1024+56:], "\x53\xef"); copy(b[1024+0x68:], mine[:]) }, true, true},
		"another's":      {func(b []byte) { copy(b[1024+56:], "\x53\xef") }, false, false},
		"an XFS":         {func(b []byte) { copy(b, "XFSB") }, false, false},
		"a LUKS":         {func(b []byte) { copy(b, "LUKS\xba\xbe"); copy(b[1024+0x68:], mine[:]) }, false, false},
	} {
		image := make([]byte, 32<<20)
		c.put(image)
		path := filepath.Join(t.TempDir(), "volume")
		require.NoError(t, os.WriteFile(path, image, 0o600))
		done, err := formatted(path, mine)
		if done != c.done || (err == nil) != c.fine || !c.fine && !errors.Is(err, dataset.ErrExists) {
			t.Errorf("%s: %t, %v", what, done, err)
		}
	}
}

// A pool that has a thin pool already had records. Their volume is not formatted, even if its tag is missing.
func TestRecordsThatLostTheirTag(t *testing.T) {
	var asked fakes.Recorder
	p := &Pool{vg: "vg0", tool: newTool(&asked), step: func(string) {}}
	records, pool := volume{Name: recordsName, Tags: []string{ourTag}}, volume{
		Name: poolName,
		Tags: []string{ourTag},
		Kind: "thin-pool",
	}
	if _, err := p.finishVolumes(t.Context(), uuid.New(), group{}, records, pool,
		1); !errors.Is(err, dataset.ErrExists) || !strings.Contains(err.Error(),
		"lvchange --addtag drover.formatted vg0/drover_records") {
		t.Error(err)
	}
	if _, err := p.finishVolumes(t.Context(), uuid.New(), group{}, volume{Name: recordsName}, volume{},
		1); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("of a volume without the tag: %v", err)
	}
	if n := asked.Count(); n > 0 {
		t.Errorf("%d commands ran", n)
	}
}

// A folder can be the place of a pool only in a sandbox, and only if the sandbox is on the filesystem with the records
// of a group.
func TestPoolsInASandbox(t *testing.T) {
	home, id := t.TempDir(), uuid.New()
	if err := os.WriteFile(filepath.Join(home, "pool.json"), []byte(`{"id":"`+id.String()+`","backend":"lvm"}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	c, err := trialdir.Make(home, id, Name)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, os.MkdirAll(c.Path+"/001/p1", 0o700))
	for path, says := range map[string]string{
		c.Path + "/pool": "is not on the records", c.Path + "/001/p1/pool": "is not on the records",
		c.Path: "is not the path of a volume group", home + "/pool": "is not the path of a volume group",
		"/pool": "is not the path of a volume group",
		home + "/drover-verify-" + uuid.NewString() + "/pool": "is not the path of a volume group",
	} {
		var asked fakes.Recorder
		_, err := New(&asked).Open(t.Context(), backends.Config{Name: "p", Path: path, Make: true})
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), says) || asked.Count() > 0 {
			t.Errorf("%s: %v after %d commands", path, err, asked.Count())
		}
	}
}

// A size is refused for a profile if every group would refuse it, and is not refused if a group with the usual extents
// can make it.
func TestTakesWhatIsMade(t *testing.T) {
	b := New(nil)
	for _, extent := range []dataset.Size{4 * dataset.MiB, 512 * dataset.MiB} {
		p := &Pool{extent: extent}
		p.info.Capabilities.Filesystems = []string{mkfs.XFS, mkfs.Ext4}
		for fs, sizes := range map[string]map[dataset.Size]bool{
			"": {
				1: false, 8 * dataset.KiB: false, dataset.MiB: false, 16_000_000: false, 200 * dataset.MiB: true,
				dataset.GiB: true, 17 * dataset.TiB: false,
			},
			mkfs.Ext4: {dataset.MiB: false, 16_000_000: false, 16 * dataset.MiB: true, 1<<63 - 1: false},
			mkfs.XFS: {
				8 * dataset.KiB: false, 16 * dataset.MiB: false, 200 * dataset.MiB: false, 298 * dataset.MiB: false,
				300 * dataset.MiB: true,
			},
		} {
			for size, want := range sizes {
				d := dataset.Dataset{Size: size}
				d.Profile.Filesystem.Type = fs
				_, _, made := p.choose(d)
				if taken := b.CheckSize(fs, size); (taken == nil) != want ||
					!want && (made == nil || made.Error() != taken.Error()) {
					t.Errorf("%s of %q is taken: %v, and in extents of %s made: %v; want %t", size, fs, taken, extent,
						made, want)
				}
			}
		}
	}
}
