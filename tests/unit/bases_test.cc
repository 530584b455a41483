// runtime/arch/x86_64/bases.c: whose a kernel thread is, where FSGSBASE does not tell.
#include "on_fibers.h"

namespace
{

// Begins with its own address, as a struct carrier does.
struct Owner {
	uintptr_t self = (uintptr_t)this;
};

// In a process of its own: how it is told is chosen once.
void with_selectors(const std::function<void()> &body)
{
	in_child([&] {
		ASSERT_TRUE(weft_bases_use_selectors());
		body();
	});
}

// More threads than there are pairs of selectors: the rest is told by GS base. The kernel
// keeps all of it, whoever runs in between.
TEST(Bases, EachThreadIsFoundHoweverManyThereAre)
{
	with_selectors([] {
		enum { THREADS = 300 }; // NUMBERS_MAX is 256; some machines have 64
		std::vector<Owner> owners(THREADS);
		std::vector<std::thread> threads;
		std::atomic<int> by_gs{0}, wrong{0}, ready{0};

		for (int i = 0; i < THREADS; i++)
			threads.emplace_back([&, i] {
				const uintptr_t own = owners[(size_t)i].self;

				if (weft_rdgsbase()) // none inherits another one's
					wrong++;
				weft_wrgsbase(own);
				by_gs += weft_ask_gs() == own;
				for (ready++; ready < THREADS;)
					sched_yield();
				for (int k = 0; k < rounds(1000); k++) {
					wrong += weft_rdgsbase() != own;
					if (k % 10 == 0)
						sched_yield();
				}
				weft_wrgsbase(0);
				wrong += weft_rdgsbase() != 0;
			});
		for (std::thread &t : threads)
			t.join();
		EXPECT_EQ(wrong, 0);
		EXPECT_GT(by_gs, 0);
		EXPECT_LT(by_gs, THREADS - 40) << "eight selectors make pairs enough";
	});
}

// As thunk.S does for threads that are none of weft's.
TEST(Bases, AThreadInheritsItUntilItSaysOtherwise)
{
	with_selectors([] {
		Owner owner;

		weft_wrgsbase(owner.self);
		std::thread([&] {
			EXPECT_EQ(weft_rdgsbase(), owner.self);
			weft_wrgsbase(0);
			EXPECT_EQ(weft_rdgsbase(), 0u);
		}).join();
		EXPECT_EQ(weft_rdgsbase(), owner.self);
	});
}

// Carriers come and go by the thousand.
TEST(Bases, NumbersAreUsedAgain)
{
	with_selectors([] {
		std::vector<Owner> owners(1000);

		for (Owner &o : owners) {
			weft_wrgsbase(o.self);
			ASSERT_EQ(weft_rdgsbase(), o.self);
			ASSERT_EQ(weft_ask_gs(), 0u) << "not told by GS base";
			weft_wrgsbase(0);
			weft_bases_drop(o.self);
		}
	});
}

TEST(Bases, AForkChildBelongsToNobody)
{
	with_selectors([] {
		std::vector<Owner> owners(200);

		for (Owner &o : owners)
			weft_wrgsbase(o.self);
		EXPECT_NE(weft_ask_gs(), 0u) << "no number was left";
		in_child([&] {
			weft_bases_forget();
			weft_wrgsbase(0);
			EXPECT_EQ(weft_rdgsbase(), 0u);
			weft_wrgsbase(owners[7].self);
			EXPECT_EQ(weft_rdgsbase(), owners[7].self);
		});
		EXPECT_EQ(weft_rdgsbase(), owners[199].self);
	});
}

// A handler that comes between two of the instructions sees nobody, or who it was.
TEST(Bases, ASignalNeverSeesAnotherOnes)
{
	with_selectors([] {
		static std::vector<Owner> owners(60);
		static std::atomic<int> wrong{0}, seen{0};
		static std::atomic<uintptr_t> from{0}, to{0};
		std::atomic<bool> over{false};
		const pid_t target = gettid();

		for (Owner &o : owners)
			weft_wrgsbase(o.self);
		from = owners.back().self;
		signal(SIGUSR1, [](int) {
			const uintptr_t now = weft_rdgsbase();

			seen++;
			wrong += now && now != from && now != to;
		});
		std::thread sender([&] {
			while (!over) {
				tgkill(getpid(), target, SIGUSR1);
				for (int k = 0; k < 100; k++)
					__builtin_ia32_pause();
			}
		});
		/* On a busy machine the sender may begin after all the rounds. */
		for (int i = 0; i < rounds(200000) || !seen; i++) {
			to = owners[(size_t)i * 7 % owners.size()].self;
			weft_wrgsbase(to);
			from.store(to);
		}
		over = true;
		sender.join();
		EXPECT_EQ(wrong, 0);
		EXPECT_GT(seen, 0);
	});
}

// Like a program that uses the registers for itself.
TEST(Bases, WhatTheProgramHasInThemStays)
{
	in_child([] {
		const int was = weft_bases;
		uint32_t ds;

		__asm__ volatile("movl %0, %%ds" ::"r"(0x2b));
		EXPECT_FALSE(weft_bases_use_selectors());
		EXPECT_EQ(weft_bases, was);
		__asm__ volatile("movl %%ds, %0" : "=r"(ds));
		EXPECT_EQ(ds, 0x2bu);
	});
}

} // namespace
