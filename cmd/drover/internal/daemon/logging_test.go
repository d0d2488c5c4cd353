package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// TestFormats logs an entry in each format.
func TestFormats(t *testing.T) {
	const fields = ` error="no such disk" op=7`
	for format, want := range map[string]string{
		Text:    `^\d{4}-\d\d-\d\dT\S+ WARNING restore\\nfailed` + fields + "\n$",
		Journal: `^<4>restore\\nfailed` + fields + "\n$",
		Syslog:  `^<28>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d) \S+ drover \d+ - - restore\\nfailed` + fields + "\n$",
		JSON:    `"level":"warning","msg":"restore\\nfailed"`,
	} {
		log, err := NewLogger("info", format, func(string) string { return "" })
		require.NoError(t, err)
		var b strings.Builder
		log.SetOutput(&b)
		log.WithError(errors.New("no such disk")).WithField("op", 7).Warn("restore\nfailed")
		if !regexp.MustCompile(want).MatchString(b.String()) {
			t.Errorf("%s: got %q, want %s", format, b.String(), want)
		}
	}
	for _, bad := range [][2]string{{"info", "xml"}, {"loud", Text}} {
		if _, err := NewLogger(bad[0], bad[1], os.Getenv); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestSeverity: each level has the number of syslog(3).
func TestSeverity(t *testing.T) {
	for level, want := range map[logrus.Level]int{
		logrus.FatalLevel: 2, logrus.ErrorLevel: 3, logrus.WarnLevel: 4, logrus.InfoLevel: 6, logrus.DebugLevel: 7,
	} {
		if got := severity(level); got != want {
			t.Errorf("%s: %d, want %d", level, got, want)
		}
	}
}

// TestDetect: a file is the journal only if the variable names it.
func TestDetect(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer f.Close()
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(f.Fd()), &st))
	for stream, want := range map[string]string{
		"": Text, "1:2": Text, fmt.Sprintf("%d:%d", st.Dev, st.Ino): Journal,
	} {
		if got := detect(f, func(string) string { return stream }); got != want {
			t.Errorf("%q: %s, want %s", stream, got, want)
		}
	}
}

// TestSyslog: each entry is a datagram, also after the syslog service was restarted.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := &syslogWriter{path: path}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a write without a service succeeds")
	}
	for range 2 {
		service, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		require.NoError(t, err)
		_, err = w.Write([]byte("<28>1 hello\n"))
		require.NoError(t, err)
		b := make([]byte, 100)
		if n, err := service.Read(b); err != nil || string(b[:n]) != "<28>1 hello" {
			t.Errorf("got %q, %v", b[:n], err)
		}
		service.Close()
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// TestSyslogThatHangs: if the syslog service does not read, a write to it fails in time. The guard logs before it
// fences, so it must not wait for that service.
func TestSyslogThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	service, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer service.Close()
	w := &syslogWriter{path: path}
	done := make(chan error)
	go func() {
		for range 10_000 { // the queue of a socket has some hundred entries at most (net.unix.max_dgram_qlen)
			if _, err := w.Write([]byte("<28>1 hello\n")); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write that nobody reads: error %v, want the deadline", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a write that nobody reads blocks")
	}
}

// TestTextHasNoEscapeSequences: a message can have a file name that a container chose, and terminals execute escape
// sequences.
func TestTextHasNoEscapeSequences(t *testing.T) {
	log, err := NewLogger("info", Text, os.Getenv)
	require.NoError(t, err)
	var b strings.Builder
	log.SetOutput(&b)
	log.WithField("path", "a\x1b[2J").Info("bad \x1b[31mname")
	if got := b.String(); strings.Contains(got, "\x1b") || !strings.Contains(got, `\x1b[31mname`) || !strings.Contains(got, `"a\x1b[2J"`) {
		t.Errorf("logged %q, want the escape sequences as text", got)
	}
}
