package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// The formats of a log.
const (
	// Auto is Journal if systemd's journal reads the log, and Text otherwise.
	Auto = "auto"
	Text = "text" // time, level, message, fields
	JSON = "json"
	// Journal has the level as a priority (see sd-daemon(3)), the message and the fields, but no time: the journal adds
	// the time.
	Journal = "journal"
	Syslog  = "syslog" // RFC 5424, to /dev/log
)

// FlagHelp is the help of the flag --log-format.
const FlagHelp = "`FORMAT` of the log: auto, text, json, journal, syslog"

// Formats returns all formats.
func Formats() []string { return []string{Auto, Text, JSON, Journal, Syslog} }

// devLog is the socket of the local syslog service.
const devLog = "/dev/log"

// NewLogger returns a log to standard error, or to the local syslog service. It fails with dataset.ErrInvalid for an
// unknown level or format.
func NewLogger(level, format string, getenv func(string) string) (*logrus.Logger, error) {
	log := logrus.New()
	lvl, err := logrus.ParseLevel(level)
	levels := []string{"debug", "info", "warning", "error"}
	if err != nil || !slices.Contains(levels, lvl.String()) {
		return nil, dataset.Errorf(dataset.ErrInvalid, "unknown log level %q (available: %s)%s", dataset.Clip(level),
			dataset.FormatChoices(levels), dataset.Suggestion(level, levels))
	}
	if !slices.Contains(Formats(), format) {
		return nil, dataset.Errorf(dataset.ErrInvalid, "unknown log format %q (available: %s)%s", dataset.Clip(format),
			dataset.FormatChoices(Formats()), dataset.Suggestion(format, Formats()))
	}
	log.SetLevel(lvl)
	if format == Auto {
		format = detect(os.Stderr, getenv)
	}
	if format == Syslog {
		log.SetOutput(&syslogWriter{path: devLog})
	}
	log.SetFormatter(formatter(format))
	return log, nil
}

// detect returns the format for a file that a log is written to.
func detect(f *os.File, getenv func(string) string) string {
	if isJournal(f, getenv("JOURNAL_STREAM")) {
		return Journal
	}
	return Text
}

// isJournal reports whether a file is the stream to the journal that systemd has made for this process, see
// systemd.exec(5). The variable alone is not enough, because a process can inherit it and write elsewhere.
func isJournal(f *os.File, stream string) bool {
	var st unix.Stat_t
	if stream == "" || unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

func formatter(format string) logrus.Formatter {
	switch format {
	case JSON:
		return &logrus.JSONFormatter{}
	case Journal:
		return lines(func(e *logrus.Entry) string { return fmt.Sprintf("<%d>", severity(e.Level)) })
	case Syslog:
		host, err := os.Hostname()
		if err != nil {
			host = "-"
		}
		return lines(func(e *logrus.Entry) string {
			const daemon = 3 // the facility
			return fmt.Sprintf("<%d>1 %s %s drover %d - - ", daemon*8+severity(e.Level),
				e.Time.Format("2006-01-02T15:04:05.000000Z07:00"), host, os.Getpid())
		})
	}
	return lines(func(e *logrus.Entry) string {
		return fmt.Sprintf("%s %-7s ", e.Time.Format(time.RFC3339), strings.ToUpper(e.Level.String()))
	})
}

// severity returns the number of syslog(3) for a level.
func severity(l logrus.Level) int {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel:
		return 2
	case logrus.ErrorLevel:
		return 3
	case logrus.WarnLevel:
		return 4
	case logrus.InfoLevel:
		return 6
	}
	return 7
}

// lines formats each entry as one line: the prefix that the function returns, the message, and the fields in the order
// of their names.
type lines func(*logrus.Entry) string

// Format implements logrus.Formatter.
func (begin lines) Format(e *logrus.Entry) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(begin(e))
	b.WriteString(oneLine(e.Message))
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		value := fmt.Sprint(e.Data[key])
		if value == "" || strings.ContainsAny(value, ` "=`) || strings.ContainsFunc(value, isUnprintable) {
			value = strconv.Quote(value)
		}
		b.WriteString(" " + key + "=" + value)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// oneLine replaces line breaks, which would begin a new entry, and escape sequences of terminals.
func oneLine(text string) string {
	if !strings.ContainsFunc(text, isUnprintable) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if isUnprintable(r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isUnprintable(r rune) bool { return !unicode.IsPrint(r) }

// syslogTime is how long an entry may wait for the syslog service. A service whose disk hangs stops reading, and then
// a log must not stop the guard from fencing, nor the agent from sending heartbeats.
const syslogTime = 100 * time.Millisecond

// syslogWriter sends each entry as one datagram. It connects again after the service has restarted.
type syslogWriter struct {
	path string

	mu   sync.Mutex
	conn net.Conn
}

// Write implements io.Writer.
func (w *syslogWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	for range 2 {
		if w.conn == nil {
			if w.conn, err = net.Dial("unixgram", w.path); err != nil {
				w.conn = nil
				return 0, fmt.Errorf("connect to syslog at %s: %w", filepath.Clean(w.path), err)
			}
		}
		_ = w.conn.SetWriteDeadline(time.Now().Add(syslogTime))
		if _, err = w.conn.Write(bytes.TrimSuffix(b, []byte("\n"))); err == nil {
			return len(b), nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break // the entry is lost; connecting again would wait again
		}
		_ = w.conn.Close()
		w.conn = nil
	}
	return 0, fmt.Errorf("write to syslog at %s: %w", w.path, err)
}
