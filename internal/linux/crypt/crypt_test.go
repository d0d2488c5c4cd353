package crypt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// The rest of a container is tested on the kernel of the lab: see backends/loop.
func TestHeader(t *testing.T) {
	id := uuid.New()
	header := func(magic string, version byte, id string) []byte {
		buf := make([]byte, 4096)
		copy(buf, magic)
		buf[7] = version
		copy(buf[168:], id)
		return buf
	}
	for name, c := range map[string]struct {
		disk []byte
		is   bool
		err  error
	}{
		"a container":      {header("LUKS\xba\xbe", 2, id.String()), true, nil},
		"of version 1":     {header("LUKS\xba\xbe", 1, id.String()), true, dataset.ErrCorrupt},
		"without a UUID":   {header("LUKS\xba\xbe", 2, "none"), true, dataset.ErrCorrupt},
		"something else":   {header("XFSB", 2, id.String()), false, nil},
		"nothing":          {nil, false, nil},
		"cut off at once":  {[]byte("LUK"), false, nil},
		"cut off a little": {header("LUKS\xba\xbe", 2, id.String())[:20], true, dataset.ErrCorrupt},
	} {
		got, is, err := crypt.Header(bytes.NewReader(c.disk))
		if is != c.is || !errors.Is(err, c.err) || (c.is && c.err == nil && got != id) {
			t.Errorf("%s: %v, %t, %v", name, got, is, err)
		}
	}
}

// If the first header of a container is damaged, the error names the command that repairs it from the second header,
// with the path of the file. The remains of the first header do not matter then.
func TestFirstHeaderLost(t *testing.T) {
	disk := func(first, second string) *os.File {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		buf := make([]byte, 32<<10)
		copy(buf, first)
		copy(buf[16<<10:], second)
		_, err = f.WriteAt(buf, 0)
		require.NoError(t, err)
		return f
	}
	const second = "SKUL\xba\xbe\x00\x02"
	for name, c := range map[string]struct {
		first, second string
		is, lost      bool
	}{
		"nothing else":         {"", second, false, true},
		"another version":      {"LUKS\xba\xbe\x00\x07", second, true, true},
		"no UUID":              {"LUKS\xba\xbe\x00\x02", second, true, true},
		"none":                 {"", "", false, false},
		"no UUID, and no more": {"LUKS\xba\xbe\x00\x02", "", true, false},
		"of LUKS1":             {"", "SKUL\xba\xbe\x00\x01", false, false},
	} {
		f := disk(c.first, c.second)
		_, is, err := crypt.Header(f)
		if !is {
			err = crypt.CheckFirstHeader(f)
		}
		if said := err != nil && strings.Contains(err.Error(), "cryptsetup repair "+f.Name()); is != c.is ||
			said != c.lost || (c.is || c.lost) && !errors.Is(err, dataset.ErrCorrupt) ||
			!c.is && !c.lost && err != nil {
			t.Errorf("%s: %t, %v", name, is, err)
		}
	}
	assert.NoError(t, crypt.CheckFirstHeader(strings.NewReader("short")))
}

// The complete key is written to the standard input of cryptsetup, and to no other place.
func TestKeyIsOnStdinAlone(t *testing.T) {
	key, id := []byte(strings.Repeat("secret\n", 9)), uuid.New()
	var read []byte
	programs := &fakes.Recorder{Next: fakes.Run(func(_ context.Context, c run.Command) (run.Result, error) {
		var err error
		read, err = io.ReadAll(c.Stdin)
		if slices.Contains(c.Args, "resize") {
			return run.Result{}, &run.Error{Cmd: c.Name, Args: c.Args, ExitCode: 2, Err: errors.New("exit status 2")}
		}
		return run.Result{}, err
	})}
	tool := crypt.New(programs)
	if err := tool.Format(t.Context(), "/dev/loop77", id, key); err != nil || !bytes.Equal(read, key) {
		t.Errorf("%v; it read %q", err, read)
	}
	_, err := tool.Resize(t.Context(), "drover-x", "/dev/dm-77", key)
	if !errors.Is(err, dataset.ErrForbidden) || strings.Contains(err.Error(), "secret") || !bytes.Equal(read, key) {
		t.Errorf("with another key: %v", err)
	}
	calls := programs.Calls()
	for _, c := range calls {
		if said := strings.Join(append(slices.Clone(c.Args), c.Env...), " "); strings.Contains(said, "secret") ||
			!strings.Contains(said, "--key-file=-") {
			t.Errorf("%s %s", c.Name, said)
		}
	}
	if args := calls[0].Args; args[len(args)-1] != "/dev/loop77" || !slices.Contains(args, id.String()) {
		t.Errorf("formatted with %q", args)
	}
}
