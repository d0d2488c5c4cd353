package mount

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/test/require"
)

func TestParseTable(t *testing.T) {
	long := strings.Repeat("/"+strings.Repeat("x", 250), 400) // longer than 64 KiB
	for name, c := range map[string]struct {
		line string
		want *Entry
	}{
		"usual": {
			"36 35 98:0 /a /b rw,noatime master:1 - ext3 /dev/root rw,errors=continue",
			&Entry{
				ID:         36,
				Parent:     35,
				Major:      98,
				Root:       "/a",
				Mountpoint: "/b",
				Options:    "rw,noatime",
				Optional:   "master:1",
				FSType:     "ext3",
				Source:     "/dev/root",
				VFSOptions: "rw,errors=continue",
			},
		},
		"no optional fields": {
			"1 0 0:5 / / ro - tmpfs none ro",
			&Entry{
				ID:         1,
				Minor:      5,
				Root:       "/",
				Mountpoint: "/",
				Options:    "ro",
				FSType:     "tmpfs",
				Source:     "none",
				VFSOptions: "ro",
			},
		},
		"escapes": {
			`1 0 0:5 /a\040b /c\134d rw - x \011 rw`,
			&Entry{
				ID:         1,
				Minor:      5,
				Root:       "/a b",
				Mountpoint: `/c\d`,
				Options:    "rw",
				FSType:     "x",
				Source:     "\t",
				VFSOptions: "rw",
			},
		},
		"an empty source": {
			"1 0 0:5 / / rw - x  rw",
			&Entry{ID: 1, Minor: 5, Root: "/", Mountpoint: "/", Options: "rw", FSType: "x", VFSOptions: "rw"},
		},
		"a dash as a path": {
			"1 0 0:5 / - rw - x - rw",
			&Entry{
				ID:         1,
				Minor:      5,
				Root:       "/",
				Mountpoint: "-",
				Options:    "rw",
				FSType:     "x",
				Source:     "-",
				VFSOptions: "rw",
			},
		},
		"a long mount point": {
			"1 0 0:5 / " + long + " rw - x y rw",
			&Entry{
				ID:         1,
				Minor:      5,
				Root:       "/",
				Mountpoint: long,
				Options:    "rw",
				FSType:     "x",
				Source:     "y",
				VFSOptions: "rw",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			const other = "2 1 8:1 / /other rw - ext4 /dev/sda1 rw\n"
			got, err := parseTable(strings.NewReader(c.line+"\n"+other), MaxTable)
			if err != nil || len(got) != 2 {
				t.Fatalf("%d entries, %v", len(got), err)
			}
			if d := cmp.Diff(c.want, got[0]); d != "" {
				t.Error(d)
			}
		})
	}
}

// A table that cannot be read completely is an error.
func TestParseTableFails(t *testing.T) {
	const good = "2 1 8:1 / /other rw - ext4 /dev/sda1 rw\n"
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"cut short":    {good + "36 35 98:0 /a /b rw", nil},
		"no number":    {good + "x 35 98:0 /a /b rw - ext3 /dev/root rw\n", nil},
		"no device":    {good + "36 35 98 /a /b rw - ext3 /dev/root rw\n", nil},
		"an empty one": {good + "\n", nil},
		"too large":    {strings.Repeat(good, MaxTable/len(good)+1), ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseTable(strings.NewReader(c.text), MaxTable)
			if err == nil || got != nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%d entries, %v", len(got), err)
			}
		})
	}
}

// A copy of the host's mount is recognized by the directory on which it is mounted. A container that
// mounts its volume on a path that ends like the host's is a holder.
func TestHoldersByPlace(t *testing.T) {
	const path = "/root/mnt/uuid"
	disk := &Entry{ID: 1, Major: 8, Minor: 1, Root: "/", Mountpoint: "/"}
	own := Mounts{disk, {ID: 2, Parent: 1, Major: 8, Minor: 2, Root: "/", Mountpoint: path}}
	at := func(id int, parent *Entry, point string) Mounts {
		return Mounts{parent, {ID: id, Parent: parent.ID, Major: 8, Minor: 2, Root: "/", Mountpoint: point}}
	}
	hostAt := func(point, root string) *Entry {
		return &Entry{ID: 10, Major: 8, Minor: 1, Root: root, Mountpoint: point}
	}
	overlay := &Entry{ID: 10, Minor: 90, Root: "/", Mountpoint: "/"}
	for name, c := range map[string]struct {
		table Mounts
		want  bool
	}{
		"a service's copy":                         {at(11, hostAt("/", "/"), path), false},
		"the whole host below a folder":            {at(11, hostAt("/rootfs", "/"), "/rootfs"+path), false},
		"the folder of all mounts":                 {at(11, hostAt("/x", "/root"), "/x/mnt/uuid"), false},
		"a container":                              {at(11, overlay, "/data"), true},
		"a container, on the host's path":          {at(11, overlay, path), true},
		"a container, on a path that ends like it": {at(11, overlay, "/x"+path), true},
		"one that shows nothing around it":         {at(11, overlay, path)[1:], true},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.table[len(c.table)-1]
			m := foreignMount{Entry: e, holder: Holder{PID: 1}}
			m.place, m.placed = c.table.Index().PlaceOf(e)
			f := Foreign{own: own, mounts: []foreignMount{m}}
			if got := len(f.Holders(Filesystem{Major: 8, Minor: 2, Root: "/"}, path)) == 1; got != c.want {
				t.Errorf("it is a holder: %t", got)
			}
		})
	}
}

// A process that could not be examined counts as a holder of every filesystem.
func TestUnexaminedIsAHolder(t *testing.T) {
	f := Foreign{unexamined: []Holder{{PID: 7, Comm: "deep", Unexamined: ErrTooLarge}}}
	for _, list := range [][]Holder{f.Holders(Filesystem{Major: 8, Root: "/"}, "/m"), f.From("pool", "")} {
		if len(list) != 1 || list[0].PID != 7 {
			t.Errorf("%v", list)
		}
	}
	if got := f.unexamined[0].String(); !strings.Contains(got, "process 7 (deep)") ||
		!strings.Contains(got, "too large") && !strings.Contains(got, "larger than 16 MiB") {
		t.Error(got)
	}
}

func TestUpperDir(t *testing.T) {
	for line, want := range map[string]string{
		"36 35 0:50 / /m rw - overlay overlay rw,lowerdir=/l,upperdir=/a\\040b\\054c,workdir=/w": "/a b,c",
		"36 35 0:50 / /m rw - overlay overlay rw,lowerdir=/l:/k":                                 "",
		"36 35 0:50 / /m rw - overlay overlay rw,lowerdir=l,upperdir=u,workdir=w":                "",
		"36 35 0:50 / /m rw - tmpfs tmpfs rw,upperdir=/u":                                        "",
	} {
		e, err := parseEntry(line)
		require.NoError(t, err)
		if path, ok := UpperDir(e); path != want && ok || ok != (want != "") {
			t.Errorf("%s: %q, %t", line, path, ok)
		}
	}
}

// differs compares the identities of block devices. An empty value is unknown.
func TestDiffers(t *testing.T) {
	for name, c := range map[string]struct {
		was               Identity
		sequence, mapping string
		want              bool
	}{
		"the same disk":                          {Identity{Sequence: "7"}, "7", "", false},
		"another disk":                           {Identity{Sequence: "7"}, "8", "", true},
		"nothing recorded":                       {Identity{}, "8", "LVM-b", false},
		"nothing to be read":                     {Identity{Sequence: "7", Mapping: "LVM-a"}, "", "", false},
		"a mapping that was activated again":     {Identity{Sequence: "7", Mapping: "LVM-a"}, "8", "LVM-a", false},
		"another mapping":                        {Identity{Sequence: "7", Mapping: "LVM-a"}, "8", "LVM-b", true},
		"another mapping, before Linux 5.15":     {Identity{Mapping: "LVM-a"}, "", "LVM-b", true},
		"a mapping that got a UUID meanwhile":    {Identity{Sequence: "7"}, "7", "LVM-a", false},
		"a mapping without a UUID, another disk": {Identity{Sequence: "7"}, "8", "LVM-a", true},
		"another sector of the disk":             {Identity{Sequence: "7 2048"}, "7 4096", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.was.differs(c.sequence, c.mapping); got != c.want {
				t.Errorf("it differs: %t", got)
			}
			if c.was.matches(c.sequence, c.mapping) && c.want {
				t.Error("it differs and matches")
			}
		})
	}
}

// If the look takes too long, each process that was not read counts as a possible holder.
func TestElsewhereIsBounded(t *testing.T) {
	cmd := exec.Command("unshare", "--mount", "cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	_, err = in.Write([]byte("x"))
	require.NoError(t, err)
	if _, err := out.Read(make([]byte, 1)); err != nil { // the process is in its namespace now
		t.Fatal(err)
	}
	table := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	if _, err := tableBefore(table, 0); !errors.Is(err, ErrScanTimeout) { // the limit applies within a table, too
		t.Errorf("read after the time: %v", err)
	}
	look, err := readForeign(0)
	require.NoError(t, err)
	for _, h := range look.Holders(Filesystem{Major: 4095, Root: "/"}, "") {
		if h.PID == cmd.Process.Pid && errors.Is(h.Unexamined, ErrScanTimeout) {
			return
		}
	}
	t.Errorf("process %d is no possible holder", cmd.Process.Pid)
}
