package store_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func newSkill(t *testing.T, s *store.Store, name string) store.Skill {
	t.Helper()
	sk := store.Skill{Library: true, Name: name, Content: "content of " + name}
	check(t, s.CreateSkill(t.Context(), &sk))
	return sk
}

func rename(name string) func(*store.Skill) error {
	return func(sk *store.Skill) error {
		sk.Name = name
		return nil
	}
}

var errRefused = errors.New("refused")

func TestSkillComesBackAsItWasCreated(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sk := store.Skill{Library: true, Name: "n", Description: ptr("d\n\"'"), Content: "  é <&>\u2028\n"}
		check(t, s.CreateSkill(t.Context(), &sk))
		if sk.Version != 1 || sk.CreatedAt != sk.UpdatedAt || sk.CreatedAt != sk.CreatedAt.UTC().Truncate(time.Millisecond) {
			t.Fatalf("not filled: %+v", sk)
		}
		got, err := s.GetSkill(t.Context(), sk.ID)
		check(t, err)
		if !reflect.DeepEqual(got, sk) {
			t.Fatalf("got  %+v\nwant %+v", got, sk)
		}
	})
}

func TestEachChangeOfASkillIsAVersion(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		first := newSkill(t, s, "one")
		second, err := s.UpdateSkill(t.Context(), first.ID, func(sk *store.Skill) error {
			sk.Description, sk.Content = ptr("d"), "new"
			sk.ID, sk.Version, sk.Library, sk.CreatedAt = "x", 9, false, time.Time{} // not to be changed
			return nil
		})
		check(t, err)
		want := first
		want.Version, want.Description, want.Content, want.UpdatedAt = 2, ptr("d"), "new", second.UpdatedAt
		if !reflect.DeepEqual(second, want) || !second.UpdatedAt.After(first.UpdatedAt) {
			t.Fatalf("got  %+v\nwant %+v", second, want)
		}
		same, err := s.UpdateSkill(t.Context(), first.ID, func(sk *store.Skill) error {
			sk.Description, sk.Content = ptr("d"), "new"
			return nil
		})
		check(t, err)
		_, refused := s.UpdateSkill(t.Context(), first.ID, func(sk *store.Skill) error {
			sk.Name = "never"
			return errRefused
		})
		got, err := s.GetSkill(t.Context(), first.ID)
		check(t, err)
		if !reflect.DeepEqual(same, second) || refused != errRefused || !reflect.DeepEqual(got, second) {
			t.Fatalf("a change of nothing: %+v, a refused one: %v, then: %+v", same, refused, got)
		}
		// A clock that was set back does not put versions out of order.
		check(t, store.Exec(t, s, "UPDATE skill_versions SET created_at = created_at + 3600000 WHERE version = 2"))
		third, err := s.UpdateSkill(t.Context(), first.ID, rename("three"))
		check(t, err)
		if want := second.UpdatedAt.Add(time.Hour + time.Millisecond); third.UpdatedAt != want {
			t.Fatalf("got %v, want %v", third.UpdatedAt, want)
		}
	})
}

func TestChangesOfASkillAtOnceAreAllVersions(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sk := newSkill(t, s, "")
		const writers = 8
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				if _, err := s.UpdateSkill(t.Context(), sk.ID, func(sk *store.Skill) error {
					sk.Name += "x"
					return nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got, err := s.GetSkill(t.Context(), sk.ID)
		check(t, err)
		if got.Name != strings.Repeat("x", writers) || got.Version != writers+1 {
			t.Fatalf("%+v", got)
		}
		page, err := s.ListSkillVersions(t.Context(), sk.ID, store.PageRequest{Total: true})
		check(t, err)
		for i, v := range page.Rows {
			if v.Version != int32(writers+1-i) || len(v.Name) != writers-i || i > 0 && !v.UpdatedAt.Before(page.Rows[i-1].UpdatedAt) {
				t.Errorf("row %d: %+v", i, v)
			}
		}
		if *page.Total != writers+1 || len(page.Rows) != writers+1 {
			t.Errorf("%d of %d", len(page.Rows), *page.Total)
		}
	})
}

func TestADeletedSkillIsGoneAndItsVersionsStay(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sk := newSkill(t, s, "one")
		second, err := s.UpdateSkill(t.Context(), sk.ID, rename("two"))
		check(t, err)
		var seen int32
		if err := s.DeleteSkill(t.Context(), sk.ID, func(v int32) error { seen = v; return errRefused }); err != errRefused || seen != 2 {
			t.Fatalf("refused delete of version %d: %v", seen, err)
		}
		if _, err := s.GetSkill(t.Context(), sk.ID); err != nil {
			t.Fatalf("it is gone although the delete was refused: %v", err)
		}
		check(t, s.DeleteSkill(t.Context(), sk.ID, nil))
		skillIsGone(t, s, sk.ID)
		versions, err := s.SkillVersions(t.Context(), []store.SkillRef{{ID: sk.ID, Version: 2}, {ID: sk.ID, Version: 1}})
		check(t, err)
		if !reflect.DeepEqual(versions, []store.Skill{second, sk}) {
			t.Fatalf("versions %+v", versions)
		}
		if _, err := s.SkillVersions(t.Context(), []store.SkillRef{{ID: sk.ID, Version: 3}}); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("a version that never was: %v", err)
		}
	})
}

// skillIsGone checks that nothing but a reference to a version finds the skill.
func skillIsGone(t *testing.T, s *store.Store, id string) {
	t.Helper()
	_, get := s.GetSkill(t.Context(), id)
	_, update := s.UpdateSkill(t.Context(), id, rename("x"))
	_, versions := s.ListSkillVersions(t.Context(), id, store.PageRequest{})
	for i, err := range []error{get, update, versions, s.DeleteSkill(t.Context(), id, nil)} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%q, call %d: %v", id, i, err)
		}
	}
	page, err := s.ListSkills(t.Context(), store.PageRequest{Total: true})
	check(t, err)
	if slices.ContainsFunc(page.Rows, func(sk store.Skill) bool { return sk.ID == id }) || int(*page.Total) != len(page.Rows) {
		t.Errorf("%q is listed: %+v", id, page)
	}
}

func TestIllFormedIDsAreNoSkills(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		id := newSkill(t, s, "one").ID
		for _, bad := range []string{"", "x", "a\x00b", strings.ToUpper(id), "{" + id + "}", id + " ", zero(id)} {
			skillIsGone(t, s, bad)
			if found, err := s.SkillsByID(t.Context(), []string{bad}); err != nil || len(found) != 0 {
				t.Errorf("%q: %v %v", bad, found, err)
			}
		}
	})
}

// zero is a well-formed id of nothing.
func zero(id string) string { return id[:24] + strings.Repeat("0", 12) }

func TestSkillsOutsideTheLibraryAreFoundOnlyByTheirPrompts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		one, two := newSkill(t, s, "one"), newSkill(t, s, "two")
		own := store.Skill{Name: "own", Content: "c"}
		check(t, s.CreateSkill(t.Context(), &own))
		check(t, s.DeleteSkill(t.Context(), two.ID, nil))
		skillIsGone(t, s, own.ID)
		found, err := s.SkillsByID(t.Context(), []string{own.ID, one.ID, two.ID, one.ID, zero(one.ID), "x"})
		check(t, err)
		one.Content, own.Content = "", ""
		if !reflect.DeepEqual(found, map[string]store.Skill{one.ID: one, own.ID: own}) {
			t.Errorf("found %+v", found)
		}
	})
}

func TestManySkillsAreFoundAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var ids []string
		for i := range 2500 {
			ids = append(ids, fmt.Sprintf("00000000-0000-7000-8000-%012d", i))
		}
		one := newSkill(t, s, "one")
		found, err := s.SkillsByID(t.Context(), append(ids, one.ID))
		if err != nil || len(found) != 1 || found[one.ID].Name != "one" {
			t.Errorf("%v %v", slices.Collect(maps.Keys(found)), err)
		}
	})
}

func TestASkillThatATransactionFoundStaysUntilItsEnd(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sk := newSkill(t, s, "one")
		var wg sync.WaitGroup
		defer wg.Wait()
		check(t, s.InTx(t.Context(), func(tx *store.Store) error {
			if _, err := tx.SkillsByID(t.Context(), []string{sk.ID}); err != nil {
				return err
			}
			deleted := make(chan error, 1)
			wg.Go(func() { deleted <- s.DeleteSkill(t.Context(), sk.ID, nil) })
			select {
			case err := <-deleted:
				return fmt.Errorf("deleted meanwhile: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			_, err := tx.GetSkill(t.Context(), sk.ID)
			return err
		}))
	})
}

func TestListsOfSkillsLeaveLargeContentsOut(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sk := store.Skill{Library: true, Name: "n", Content: strings.Repeat("é", 32<<10)}
		check(t, s.CreateSkill(t.Context(), &sk))
		_, err := s.UpdateSkill(t.Context(), sk.ID, func(sk *store.Skill) error { sk.Content += "x"; return nil })
		check(t, err)
		page, err := s.ListSkills(t.Context(), store.PageRequest{})
		check(t, err)
		versions, err := s.ListSkillVersions(t.Context(), sk.ID, store.PageRequest{})
		check(t, err)
		if page.Rows[0].Content != "" || versions.Rows[0].Content != "" || versions.Rows[1].Content != sk.Content {
			t.Fatalf("contents of %d, %d and %d bytes", len(page.Rows[0].Content), len(versions.Rows[0].Content), len(versions.Rows[1].Content))
		}
	})
}

func TestSkillsArePagedWhileSkillsAreAdded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var want []string
		for i := range 25 {
			want = append([]string{newSkill(t, s, fmt.Sprint(i)).ID}, want...)
		}
		var got []string
		for p := (store.PageRequest{Limit: 10, Total: true}); ; {
			page, err := s.ListSkills(t.Context(), p)
			check(t, err)
			if *page.Total < 25 || len(page.Rows) > 10 {
				t.Fatalf("total %d, %d rows", *page.Total, len(page.Rows))
			}
			for _, row := range page.Rows {
				got = append(got, row.ID)
			}
			if p.After = page.Next; p.After == nil {
				break
			}
			newSkill(t, s, "later")
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		page, err := s.ListSkills(t.Context(), store.PageRequest{Limit: 2, Offset: 4})
		check(t, err)
		if page.Total != nil || len(page.Rows) != 2 || page.Rows[0].ID != want[2] || page.Rows[0].Content != "content of 22" {
			t.Fatalf("%+v", page)
		}
	})
}

func TestVersionsOfASkillArePaged(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sk := newSkill(t, s, "1")
		other := newSkill(t, s, "other")
		_, err := s.UpdateSkill(t.Context(), other.ID, rename("other 2"))
		check(t, err)
		for i := 2; i <= 5; i++ {
			_, err := s.UpdateSkill(t.Context(), sk.ID, rename(fmt.Sprint(i)))
			check(t, err)
		}
		var got []string
		for p := (store.PageRequest{Limit: 2}); ; {
			page, err := s.ListSkillVersions(t.Context(), sk.ID, p)
			check(t, err)
			for _, row := range page.Rows {
				if row.CreatedAt != sk.CreatedAt || row.ID != sk.ID {
					t.Errorf("%+v", row)
				}
				got = append(got, row.Name)
			}
			if p.After = page.Next; p.After == nil {
				break
			}
		}
		if strings.Join(got, "") != "54321" {
			t.Fatalf("got %v", got)
		}
		page, err := s.ListSkillVersions(t.Context(), sk.ID, store.PageRequest{Offset: 3, Total: true})
		check(t, err)
		if *page.Total != 5 || len(page.Rows) != 2 || page.Rows[0].Name != "2" {
			t.Fatalf("%+v", page)
		}
	})
}

func TestSkillsOfASessionArePinned(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		refs := []store.SkillRef{{ID: "a", Version: 2}, {ID: "b", Version: 1}}
		sess := store.Session{AgentID: newAgent(t, s).ID, Skills: refs}
		check(t, s.CreateSession(t.Context(), &sess, nil))
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			tx.Session.Title, tx.Session.Skills = ptr("t"), nil
			return nil
		}))
		got, err := s.GetSession(t.Context(), sess.ID)
		check(t, err)
		if *got.Title != "t" || !reflect.DeepEqual(got.Skills, refs) {
			t.Fatalf("%+v", got)
		}
		without, err := s.GetSession(t.Context(), newSession(t, s).ID)
		check(t, err)
		if without.Skills == nil || len(without.Skills) != 0 {
			t.Fatalf("%+v", without.Skills)
		}
	})
}
