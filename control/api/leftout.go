package api

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// LeftOut is what an archive lacks of its volume: sockets, which tar has not.
type LeftOut struct {
	Count int
	First []string // paths in the volume: as many as Add keeps
}

// Add counts one. Of the first few it keeps the path.
func (l *LeftOut) Add(path string) {
	const kept, longest = 3, 200
	if l.Count++; len(l.First) >= kept {
		return
	}
	if len(path) > longest {
		path = path[:longest] + "…"
	}
	l.First = append(l.First, path)
}

// trailer tells it in a header: the count and the first paths, percent-encoded.
func (l LeftOut) trailer() string {
	words := []string{strconv.Itoa(l.Count)}
	for _, path := range l.First {
		words = append(words, url.PathEscape(path))
	}
	return strings.Join(words, " ")
}

// leftOutOf reads what trailer has told; nothing where it is absent.
func leftOutOf(h http.Header) (l LeftOut, err error) {
	words := strings.Fields(h.Get(leftOutTrailer))
	if len(words) == 0 {
		return l, nil
	}
	if l.Count, err = strconv.Atoi(words[0]); err != nil {
		return l, dataset.Errorf(dataset.ErrInternal, "bad answer: %s is %q", leftOutTrailer,
			dataset.Clip(h.Get(leftOutTrailer)))
	}
	for _, word := range words[1:] {
		path, err := url.PathUnescape(word)
		if err != nil {
			path = word
		}
		l.First = append(l.First, path)
	}
	return l, nil
}
