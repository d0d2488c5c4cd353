package tree

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

const tarBlock = 512

// maxRecords is the maximum size of an extended header. archive/tar does not read larger ones.
const maxRecords = 1 << 20

// Keywords of extended header records (pax(1), GNU tar's manual "Extended
// Attributes" and "Sparse Formats").
const (
	paxXattr = "SCHILY.xattr."
	paxACL   = "SCHILY.acl."

	// Drover's keywords, named as pax(1) prescribes for vendors. paxSocket marks a FIFO that represents a socket.
	// paxSparse contains the size of a sparse file whose data begins with a map (tarsparse.go).
	paxSocket = "DROVER.socket"
	paxSparse = "DROVER.sparse"
)

// tarHeader is the header of one entry. Values that do not fit into the ustar block are written to an extended header
// before it. Package archive/tar cannot write sparse files, and the largest file of a system may consist of a hole
// (/var/log/lastlog).
type tarHeader struct {
	kind         byte
	name, link   string
	meta         meta
	size         int64 // number of bytes after the header
	major, minor uint32
	records      map[string]string // of the extended header
}

// extend adds the values that do not fit into the ustar block to the extended header.
func (h *tarHeader) extend() {
	set := func(key, value string) { h.records[key] = value }
	if len(h.name) > 100 || !isASCII(h.name) {
		set("path", h.name)
	}
	if len(h.link) > 100 || !isASCII(h.link) {
		set("linkpath", h.link)
	}
	if !utf8.ValidString(h.name) || !utf8.ValidString(h.link) {
		set("hdrcharset", "BINARY") // without it, records must be UTF-8: pax(1)
	}
	if h.size >= 1<<33 {
		set("size", strconv.FormatInt(h.size, 10))
	}
	if h.meta.uid >= 1<<21 {
		set("uid", strconv.Itoa(h.meta.uid))
	}
	if h.meta.gid >= 1<<21 {
		set("gid", strconv.Itoa(h.meta.gid))
	}
	if t := h.meta.mtime; t.Nsec != 0 || t.Sec < 0 || t.Sec >= 1<<33 {
		set("mtime", paxTime(t))
	}
	for _, x := range h.meta.xattrs {
		set(paxXattr+paxEscape.Replace(x.name), string(x.value))
	}
}

// paxEscape escapes attribute names as GNU tar does, because a keyword ends at the first equals sign.
var paxEscape = strings.NewReplacer("%", "%25", "=", "%3D")

var paxUnescape = strings.NewReplacer("%25", "%", "%3D", "=")

// isASCII reports whether a string needs no extended header for its encoding.
func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// paxTime formats seconds with a fraction. A time before 1970 is a negative number.
func paxTime(t unix.Timespec) string {
	sec, nsec, sign := t.Sec, t.Nsec, ""
	if sec < 0 {
		sign = "-"
		sec = -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	return fmt.Sprintf("%s%d.%09d", sign, sec, nsec)
}

// writeTo writes the header with its records. The caller writes the content of the entry afterwards.
func (h *tarHeader) writeTo(w io.Writer) error {
	h.extend()
	if len(h.records) > 0 {
		data := paxRecords(h.records)
		if len(data) > maxRecords {
			return dataset.Errorf(dataset.ErrUnsupported, "attributes and names need %d bytes: tar readers accept %d",
				len(data), maxRecords)
		}
		x := tarHeader{kind: 'x', name: "./PaxHeaders/" + h.name, size: int64(len(data))}
		x.meta.mode = 0o644
		if _, err := w.Write(x.block()); err != nil {
			return err
		}
		if _, err := w.Write(append(data, make([]byte, padding(int64(len(data))))...)); err != nil {
			return err
		}
	}
	_, err := w.Write(h.block())
	return err
}

// paxRecords returns the records as "length keyword=value\n", sorted. The length includes its own digits.
func paxRecords(records map[string]string) []byte {
	var keys []string
	for k := range records {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var out bytes.Buffer
	for _, k := range keys {
		body := " " + k + "=" + records[k] + "\n"
		size := len(body)
		for size != len(body)+len(strconv.Itoa(size)) {
			size = len(body) + len(strconv.Itoa(size))
		}
		out.WriteString(strconv.Itoa(size) + body)
	}
	return out.Bytes()
}

// block returns the ustar header. Numbers that do not fit are 0: the extended header has them.
func (h *tarHeader) block() []byte {
	b := make([]byte, tarBlock)
	octal := func(off, width int, v int64) {
		if v < 0 || v >= 1<<(3*(width-1)) {
			v = 0
		}
		copy(b[off:], fmt.Sprintf("%0*o", width-1, v))
	}
	copy(b[0:100], h.name)
	octal(100, 8, int64(h.meta.mode))
	octal(108, 8, int64(h.meta.uid))
	octal(116, 8, int64(h.meta.gid))
	octal(124, 12, h.size)
	octal(136, 12, h.meta.mtime.Sec)
	copy(b[148:156], "        ")
	b[156] = h.kind
	copy(b[157:257], h.link)
	copy(b[257:], "ustar\x0000")
	octal(329, 8, int64(h.major))
	octal(337, 8, int64(h.minor))
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// padding returns how many bytes are missing to a multiple of the block size.
func padding(n int64) int64 { return (tarBlock - n%tarBlock) % tarBlock }
