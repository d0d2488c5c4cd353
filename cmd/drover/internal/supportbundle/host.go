package supportbundle

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
	"github.com/droverhq/drover/internal/config"
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
	p, err := h.server()
	return []part{
		{"host.txt", func(ctx context.Context) ([]byte, error) { return h.facts(ctx, p, err) }},
		{"drover.yaml", func(context.Context) ([]byte, error) {
			return h.readSettings(p, h.settings(p, "config", h.Config), h.Config)
		}},
		{"profiles.yaml", func(context.Context) ([]byte, error) {
			return h.readSettings(p, h.settings(p, "profiles", h.Profiles), h.Profiles)
		}},
		{"log.txt", func(ctx context.Context) ([]byte, error) { return h.log(ctx, p) }},
		{"mountinfo.txt", func(context.Context) ([]byte, error) { return h.mounts(p) }},
	}
}

// process is the server of the API. If it is not known, its PID is 0.
type process struct {
	pid  int
	args []string
}

// server returns the process that listens on the socket of the API.
func (h Host) server() (process, error) {
	if h.Socket == "" {
		return process{}, errors.New("the server is not on this host")
	}
	conn, err := net.DialTimeout("unix", h.Socket, time.Second)
	if err != nil {
		return process{}, err
	}
	defer conn.Close()
	cred, err := socket.Peer(conn.(*net.UnixConn))
	if err != nil {
		return process{}, err
	}
	if cred.Pid <= 1 { // 0: in another PID namespace; 1: systemd, which listens for a socket unit
		return process{}, fmt.Errorf("process %d listens on %s", cred.Pid, h.Socket)
	}
	line, err := os.ReadFile(filepath.Join(h.Proc, strconv.Itoa(int(cred.Pid)), "cmdline"))
	if err != nil {
		return process{}, err
	}
	return process{pid: int(cred.Pid), args: strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")}, nil
}

// flag returns the value of a flag on the command line of the process, or the default.
func (p process) flag(name, value string) string {
	for i, arg := range p.args {
		if v, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			value = v
		} else if arg == "--"+name && i+1 < len(p.args) {
			value = p.args[i+1]
		}
	}
	return value
}

// settings returns the path of a file that a flag of the server names, or the default. A relative path is one of the
// server's working directory.
func (h Host) settings(p process, flag, standard string) string {
	file := p.flag(flag, standard)
	if dir, err := os.Readlink(filepath.Join(h.Proc, strconv.Itoa(p.pid), "cwd")); err == nil && !filepath.IsAbs(file) {
		return filepath.Join(dir, file)
	}
	return file
}

// open opens a file for reading, as the server sees it. A server in a container has its own root directory and mounts,
// and symbolic links cannot lead out of that root directory. If the server's process is not known, open opens the file
// that this command sees.
func (h Host) open(p process, file string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC // a FIFO must not block
	if p.pid == 0 {
		return os.OpenFile(file, flags, 0)
	}
	root, err := unix.Open(h.root(p), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil { // the error must not match fs.ErrNotExist, which is about the file
		return nil, fmt.Errorf("open %s in the root directory of process %d: %s", file, p.pid, err.Error())
	}
	defer unix.Close(root)
	for {
		fd, err := unix.Openat2(root, file, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_IN_ROOT})
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), file), nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return nil, &fs.PathError{Op: "open", Path: file, Err: err}
		}
	}
}

// root returns the link to the root directory of the server.
func (h Host) root(p process) string { return filepath.Join(h.Proc, strconv.Itoa(p.pid), "root") }

// contained reports whether the server has another root directory than this command, as in a container.
func (h Host) contained(p process) bool {
	if p.pid == 0 {
		return false
	}
	its, err := os.Stat(h.root(p))
	ours, err2 := os.Stat("/")
	return err == nil && err2 == nil && !os.SameFile(its, ours)
}

// facts returns the versions of the kernel, the distribution and the engine, and the command line of the server.
func (h Host) facts(ctx context.Context, p process, unknown error) ([]byte, error) {
	var b bytes.Buffer
	var failed []error
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		failed = append(failed, fmt.Errorf("kernel: %w", err))
	} else {
		fmt.Fprintf(&b, "host: %s\nkernel: %s %s %s %s\n", unix.ByteSliceToString(u.Nodename[:]),
			unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]),
			unix.ByteSliceToString(u.Version[:]), unix.ByteSliceToString(u.Machine[:]))
	}
	if release, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.SplitSeq(string(release), "\n") {
			if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				fmt.Fprintf(&b, "distribution: %s\n", strings.Trim(name, `"`))
			}
		}
	}
	for _, file := range []string{h.settings(p, "config", h.Config), h.settings(p, "profiles", h.Profiles)} {
		note := ""
		if h.contained(p) {
			note = fmt.Sprintf(" in the root directory of process %d", p.pid)
		}
		if f, err := h.open(p, file); err == nil {
			_ = f.Close()
		} else if errors.Is(err, fs.ErrNotExist) {
			note += " does not exist"
		}
		fmt.Fprintf(&b, "settings: %s%s\n", file, note)
	}
	if version, err := h.engine(ctx); err != nil {
		failed = append(failed, fmt.Errorf("engine: %w", err))
	} else {
		fmt.Fprintf(&b, "engine: %s\n", version)
	}
	if unknown != nil {
		failed = append(failed, fmt.Errorf("process of the server: %w", unknown))
	} else {
		fmt.Fprintf(&b, "server: process %d: %s\n", p.pid, strings.Join(p.args, " "))
	}
	return b.Bytes(), errors.Join(failed...)
}

func (h Host) engine(ctx context.Context) (string, error) {
	if h.EngineVersion == nil {
		return "", errors.New("not known")
	}
	return h.EngineVersion(ctx)
}

// readSettings returns a file of settings. The file at the default place is optional.
func (h Host) readSettings(p process, file, standard string) ([]byte, error) {
	f, err := h.open(p, file)
	if errors.Is(err, fs.ErrNotExist) && file == standard {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readFrom(f, maxFile, 0)
}

// log returns the end of the server's log. The log is the file to which the server writes its standard error. If that
// is not a file, the log is in the journal.
func (h Host) log(ctx context.Context, p process) ([]byte, error) {
	if p.pid != 0 {
		stderr := filepath.Join(h.Proc, strconv.Itoa(p.pid), "fd", "2")
		if st, err := os.Stat(stderr); err == nil && st.Mode().IsRegular() {
			f, err := os.OpenFile(stderr, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				return nil, err
			}
			return readFrom(f, maxLog, st.Size()-maxLog)
		}
	}
	if h.contained(p) {
		return nil, dataset.Errorf(dataset.ErrUnavailable, "process %d is in a container: read its log with "+
			"`docker logs`", p.pid)
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

// mounts returns the lines of mountinfo that are about Drover: those with the path of the server's root or run folder,
// with the path of a pool, or with the word drover. The mounts of the server can differ from those of this command.
func (h Host) mounts(p process) ([]byte, error) {
	words := []string{"drover", p.flag("root", "/var/lib/drover"), p.flag("run", "/run/drover")}
	file := h.settings(p, "config", h.Config)
	if b, err := h.readSettings(p, file, h.Config); err == nil {
		if c, err := config.Parse(file, b, nil); err == nil {
			for _, pool := range c.Pools {
				if pool.Path != "" {
					words = append(words, pool.Path)
				}
			}
		}
	}
	var b bytes.Buffer
	var failed []error
	of := []string{"self"}
	if p.pid != 0 {
		of = append(of, strconv.Itoa(p.pid))
	}
	for _, proc := range of {
		table, err := os.ReadFile(filepath.Join(h.Proc, proc, "mountinfo"))
		if err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintf(&b, "# /proc/%s/mountinfo\n", proc)
		for line := range strings.SplitSeq(string(table), "\n") {
			for _, w := range words {
				if strings.Contains(line, w) {
					fmt.Fprintln(&b, line)
					break
				}
			}
		}
	}
	return b.Bytes(), errors.Join(failed...)
}
