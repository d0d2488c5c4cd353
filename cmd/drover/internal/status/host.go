package status

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/socket"
)

// The limits of the parts about the host.
const (
	maxLog       = 2 << 20 // bytes of the end of a log file
	maxFile      = 1 << 20 // bytes of a file of settings
	journalLines = 5000
)

// Host has the places from which the parts about this host are collected. A zero field means that its part cannot be
// collected.
type Host struct {
	Proc   string // the proc filesystem
	Socket string // of the API's server, if it is on this host. If it is empty, the command sets it.
	// Config and Profiles are the files of a server whose command line does not name others.
	Config, Profiles string
	Runner           run.Runner
	EngineVersion    func(context.Context) (string, error)
}

// ThisHost returns the places of the host on which the command runs.
func ThisHost(engineVersion func(context.Context) (string, error)) Host {
	return Host{
		Proc:          "/proc",
		Config:        settings.DefaultConfig,
		Profiles:      settings.DefaultProfiles,
		Runner:        &run.System{},
		EngineVersion: engineVersion,
	}
}

// parts returns the parts about the host.
func (h Host) parts() []part {
	dir, args, err := h.server()
	file := func(flag, standard string) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return readSettings(dir, args, flag, standard) }
	}
	return []part{
		{"host.txt", func(ctx context.Context) ([]byte, error) { return h.facts(ctx, args, err) }},
		{"drover.yaml", file("config", h.Config)},
		{"profiles.yaml", file("profiles", h.Profiles)},
		{"log.txt", func(ctx context.Context) ([]byte, error) { return h.log(ctx, dir) }},
	}
}

// server returns the folder in the proc filesystem, and the command line, of the process that listens on the socket of
// the API.
func (h Host) server() (dir string, args []string, err error) {
	if h.Socket == "" {
		return "", nil, errors.New("the server is not on this host")
	}
	conn, err := net.DialTimeout("unix", h.Socket, time.Second)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	cred, err := socket.Peer(conn.(*net.UnixConn))
	if err != nil {
		return "", nil, err
	}
	if cred.Pid <= 1 { // 0: in another PID namespace; 1: systemd, which listens for a socket unit
		return "", nil, fmt.Errorf("process %d listens on %s", cred.Pid, h.Socket)
	}
	dir = filepath.Join(h.Proc, strconv.Itoa(int(cred.Pid)))
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return "", nil, err
	}
	return dir, strings.Split(strings.TrimRight(string(line), "\x00"), "\x00"), nil
}

// readSettings returns the file that a flag of the server names, or the default, which is optional. It reads the file
// that the server sees: a server in a container has its own root directory, out of which no symbolic link leads.
func readSettings(dir string, args []string, flag, standard string) ([]byte, error) {
	file := standard
	for i, arg := range args {
		if v, ok := strings.CutPrefix(arg, "--"+flag+"="); ok {
			file = v
		} else if arg == "--"+flag && i+1 < len(args) {
			file = args[i+1]
		}
	}
	name, root := file, "/"
	if dir != "" {
		root = filepath.Join(dir, "root")
		if cwd, err := os.Readlink(filepath.Join(dir, "cwd")); err == nil && !filepath.IsAbs(file) {
			name = filepath.Join(cwd, file)
		}
	}
	name, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	f, err := openIn(root, name)
	if errors.Is(err, fs.ErrNotExist) && file == standard {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readFrom(f, maxFile, 0)
}

// openIn opens a file below a root directory for reading, as a process with this root directory does.
func openIn(root, file string) (*os.File, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil { // the error must not match fs.ErrNotExist, which is about the file
		return nil, fmt.Errorf("open %s in %s: %s", file, root, err.Error())
	}
	defer unix.Close(at)
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, // a FIFO must not block
		Resolve: unix.RESOLVE_IN_ROOT,
	}
	for {
		fd, err := unix.Openat2(at, file, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), file), nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return nil, &fs.PathError{Op: "open", Path: file, Err: err}
		}
	}
}

// facts returns the versions of the kernel, the distribution and the engine, and the command line of the server.
func (h Host) facts(ctx context.Context, args []string, unknown error) ([]byte, error) {
	var b bytes.Buffer
	var u unix.Utsname
	err := unix.Uname(&u)
	fmt.Fprintf(&b, "kernel: %s %s %s\n", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Version[:]),
		unix.ByteSliceToString(u.Machine[:]))
	if release, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.SplitSeq(string(release), "\n") {
			if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				fmt.Fprintf(&b, "distribution: %s\n", strings.Trim(name, `"`))
			}
		}
	}
	if h.EngineVersion != nil {
		if version, failed := h.EngineVersion(ctx); failed != nil {
			err = errors.Join(err, fmt.Errorf("engine: %w", failed))
		} else {
			fmt.Fprintf(&b, "engine: %s\n", version)
		}
	}
	if unknown != nil {
		return b.Bytes(), errors.Join(err, fmt.Errorf("process of the server: %w", unknown))
	}
	fmt.Fprintf(&b, "server: %s\n", strings.Join(args, " "))
	return b.Bytes(), err
}

// log returns the end of the server's log: the file to which it writes its standard error, else the journal.
func (h Host) log(ctx context.Context, dir string) ([]byte, error) {
	if dir != "" {
		stderr := filepath.Join(dir, "fd", "2")
		if st, err := os.Stat(stderr); err == nil && st.Mode().IsRegular() {
			f, err := os.OpenFile(stderr, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				return nil, err
			}
			return readFrom(f, maxLog, st.Size()-maxLog)
		}
		its, err := os.Stat(filepath.Join(dir, "root"))
		ours, err2 := os.Stat("/")
		if err == nil && err2 == nil && !os.SameFile(its, ours) {
			return nil, dataset.Errorf(dataset.ErrUnavailable, "the server is in a container: read its log with "+
				"`docker logs`")
		}
	}
	if h.Runner == nil {
		return nil, errors.New("the log is not a file")
	}
	args := []string{"-n", strconv.Itoa(journalLines), "--no-pager", "-o", "short-iso-precise"}
	for _, unit := range []string{"drover", "drover-agent", "drover-control", "drover-guard"} {
		args = append(args, "-u", unit)
	}
	out, err := h.Runner.Run(ctx, run.Command{Name: "journalctl", Args: args, Timeout: 20 * time.Second})
	if err != nil {
		err = dataset.Errorf(dataset.ErrUnavailable, "the log is not a file, and the journal cannot be read: %w", err)
	}
	return out.Stdout, err
}

// readFrom returns at most limit bytes of a regular file from an offset on, and closes the file. If the offset is above
// 0, the result begins with a whole line.
func readFrom(f *os.File, limit, offset int64) ([]byte, error) {
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", f.Name())
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(offset, 0), limit))
	if offset > 0 {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	return b, err
}
